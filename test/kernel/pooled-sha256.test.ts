import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import test from 'ava';
import { pooledSha256, sha256InThisThread } from '../../src/kernel/pooled-sha256.ts';

const sha256sum = (input: Buffer) =>
  execFileSync('sha256sum', { input, maxBuffer: 1e9 }).toString().slice(0, 64);

for (const make of [pooledSha256, sha256InThisThread]) {
  for (const sizes of [[], [1], [65536, 65537], [3, 5_000_000, 100_000, 7, 2_000_000]]) {
    test(`${make.name}: pieces of ${sizes.join(', ') || 'nothing'}`, async (t) => {
      const pieces = sizes.map((size) => randomBytes(size));
      using digest = make();
      for (const piece of pieces) await digest.update(piece);
      t.is(digest.digest(), sha256sum(Buffer.concat(pieces)));
    });
  }
}

test('several at a time have nothing to do with each other', async (t) => {
  const contents = Array.from({ length: 20 }, () => randomBytes(1_000_000));
  const digests = await Promise.all(
    contents.map(async (content) => {
      using digest = pooledSha256();
      for (let at = 0; at < content.length; at += 100_000) {
        await digest.update(content.subarray(at, at + 100_000));
      }
      return digest.digest();
    }),
  );
  t.deepEqual(digests, contents.map(sha256sum));
});

test.serial('it is done in another thread', async (t) => {
  const content = Buffer.alloc(200_000_000);
  using digest = pooledSha256();
  const [before, wholeBefore] = [process.threadCpuUsage(), process.cpuUsage()];
  await digest.update(content);
  const [here, whole] = [process.threadCpuUsage(before).user, process.cpuUsage(wholeBefore).user];
  t.true(here < whole / 2, `${here} of ${whole} µs`);
  t.is(digest.digest(), sha256sum(content));
});
