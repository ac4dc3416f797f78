/** A disk that is full for its users: what it keeps for root stays so. */
import { mkdirSync, statSync } from 'node:fs';
import { chown, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

const sizeOf = (results: string, name: string) => statSync(join(results, 'some', name)).size;

for (const [what, write] of [
  ['one large file', 'head -c 8388608 /dev/urandom >/tmp/some/large'],
  ['many small files', 'for i in $(seq 40); do head -c 204800 /dev/urandom >/tmp/some/$i; done'],
] as const)
  test.serial(`a user’s results take no blocks that are reserved for root: ${what}`, async (t) => {
    const { beside, as, run } = t.context;
    const disk = join(beside, `disk of ${what}`);
    const image = `${disk}.ext4`;
    mkdirSync(disk);
    await execa('truncate', ['-s', '64M', image]);
    await execa('mkfs.ext4', ['-q', '-m', '40', image]);
    await execa('mount', ['-o', 'loop', image, disk]);
    t.teardown(() => execa('umount', [disk]));
    const results = join(disk, 'results');
    mkdirSync(results);
    await chown(results, USER.uid, USER.gid);
    // All that the user may take but 2 MiB, as the file system itself says.
    await run(USER, ['dd', 'if=/dev/zero', 'of=filling', 'bs=64K'], { cwd: results });
    await run(USER, ['truncate', '-s', '-2M', 'filling'], { cwd: results });
    const blocks = async () => {
      await execa('sync', ['-f', disk]);
      const { stdout } = await execa('stat', ['-f', '-c', '%f %a', disk]);
      const [free = 0, usable = 0] = stdout.split(' ').map(Number);
      return { free, usable };
    };
    const before = await blocks();
    const kept = before.free - before.usable;
    t.true(kept > 10_000, `${kept} blocks are kept for root`);
    const script = `mkdir /tmp/some; ${write}`;
    const options = ['-r', 'busybox', '--artifact', '/tmp/some', '--resultdir', results];
    const done = await as(USER, ['run', ...options, '--', 'sh', '-c', script]);
    const after = await blocks();
    t.true(after.free >= kept, `${after.free} blocks are free, ${kept} of them were root’s`);
    t.is(done.exitCode, 125, String(done.stderr));
    t.regex(String(done.stderr), /cannot be written to .*disk of .*E_RESULTDIR.*ENOSPC/s);
    // What is cut would look like a whole file.
    const sizes = (await readdir(join(results, 'some'))).map((name) => sizeOf(results, name));
    t.true(
      sizes.every((size) => size === 204_800),
      sizes.join(' '),
    );
    // There is room for these.
    await run(USER, ['rm', '-rf', 'some'], { cwd: results });
    const small = await as(USER, [
      ...['run', ...options, '--', 'sh', '-c'],
      'mkdir /tmp/some; for i in 1 2 3; do head -c 204800 /dev/urandom >/tmp/some/$i; done',
    ]);
    t.is(small.exitCode, 0, String(small.stderr));
    t.deepEqual((await readdir(join(results, 'some'))).sort(), ['1', '2', '3']);
  });
