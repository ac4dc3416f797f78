import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { Random } from '../../scripts/fuzzing/random.ts';
import { encodeExec, encodeSignal, encodeWindowSize } from '../../src/sandbox/protocol/exec.ts';

const CASES = 40_000;

const guest = join(import.meta.dirname, '../../src/guest');

const EXEC = encodeExec({
  ...{ id: 1, argv: ['sh', '-c', 'true'], environment: ['PATH=/bin', 'A=b'], workdir: '/' },
  ...{
    user: '1000:1000',
    capabilities: 5n,
    landlock: [],
    openSockets: true,
    limits: [],
    umask: 0o22,
  },
});
const MESSAGES = [EXEC, encodeSignal(1, 15), encodeWindowSize(1, 24, 80)];

/** A connection's worth of messages, most of which are damaged. */
function damaged(random: Random): Buffer {
  const count = 1 + random.below(3);
  const parts = Array.from({ length: count }, () => Buffer.from(random.pick(MESSAGES)));
  for (const bytes of parts) {
    if (random.once(4)) continue;
    // Lengths and tags are every field's first 8 bytes; edges of 32 bits are what they break at.
    const at = random.below(bytes.length - 3);
    if (random.once(2))
      bytes.writeUInt32LE(random.pick([0, 1, 7, 8, 255, 2 ** 31, 2 ** 32 - 1]), at);
    else bytes[at] = random.below(256);
    // The message's own length is often right again, so that what is in it is looked at.
    if (!random.once(3)) bytes.writeUInt32LE(bytes.length - 8, 0);
  }
  const whole = Buffer.concat(parts);
  return random.once(8) ? whole.subarray(0, random.below(whole.length)) : whole;
}

test('the init’s parser takes whatever comes, under sanitizers', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-fuzz-guest-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const program = join(directory, 'harness');
  await execa('cc', [
    ...['-std=c17', '-O1', '-g', '-D_GNU_SOURCE', `-I${guest}`, '-o', program],
    ...['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
    ...[join(import.meta.dirname, 'guest-harness.c'), join(guest, 'protocol.c')],
  ]);
  const seed = Date.now() >>> 0;
  const random = new Random(seed);
  const cases: Buffer[] = [];
  for (let i = 0; i < CASES; i++) {
    const bytes = damaged(random);
    const length = Buffer.alloc(4);
    length.writeUInt32LE(bytes.length);
    cases.push(length, bytes);
  }
  const { exitCode, stdout, stderr } = await execa(program, {
    input: Buffer.concat(cases),
    reject: false,
  });
  t.is(exitCode, 0, `seed ${seed}: ${stderr}`);
  const [messages = 0, fields = 0] = [...stdout.matchAll(/\d+/g)].map(Number);
  t.true(messages > CASES / 2, stdout);
  t.true(fields > CASES, stdout);
});
