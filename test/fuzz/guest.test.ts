import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Random } from '../../scripts/fuzzing/random.ts';
import { REQUESTS } from '../../src/sandbox/wire/table.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { buildGuestHarness, readByGuest } from '../support/guest-harness.ts';
import { wholeMessage } from '../support/wire-damage.ts';

const CASES = 40_000;

const MESSAGES = Object.values(REQUESTS).map(wholeMessage);

/** A connection's worth of messages, most of which are damaged. */
function damaged(random: Random): Buffer {
  const count = 1 + random.below(3);
  const parts = Array.from({ length: count }, () => Buffer.from(random.pick(MESSAGES).bytes));
  for (const bytes of parts) {
    if (random.once(3)) continue;
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

test('the init’s reader survives any input, under sanitizers', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-fuzz-guest-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const program = await buildGuestHarness(directory);
  const seed = Date.now() >>> 0;
  const random = new Random(seed);
  const cases = Array.from({ length: CASES }, () => ({
    bytes: damaged(random),
    descriptors: random.below(5),
  }));
  const read = await readByGuest(program, cases);
  t.is(read.length, CASES, `seed ${seed}`);
  t.true(read.filter(({ taken }) => taken > 0).length > CASES / 20);
  t.true(read.filter(({ refused }) => refused).length > CASES / 4);
});
