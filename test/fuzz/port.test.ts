import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Random } from '../../scripts/fuzzing/random.ts';
import { DESCRIPTORS, PORT } from '../../src/sandbox/wire/port.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { isLong } from '../support/long.ts';
import {
  buildPortHarness,
  frame,
  GUEST_FRAMES,
  NEW,
  OPEN,
  readByRelay,
  wordBytes,
} from '../support/port-harness.ts';

/** The campaign is `KILN_TEST_LONG=1`. */
const CASES = isLong ? 100_000 : 5_000;

/** Numbers at which something begins, ends or is missing. */
const NUMBERS = [0, 1, 4, 5, 7, 63, PORT.guest, PORT.window, 2 ** 31, 2 ** 32 - 1];

const STREAMS = [0, ...Object.values(OPEN), 5, PORT.streams - 1, PORT.guest, NEW, NEW + 1, 65535];

/** Frames that are mostly as they must be, so that what they mean together is tried, too. */
function damaged(random: Random): Buffer {
  const count = 1 + random.below(12);
  const parts = Array.from({ length: count }, () => {
    const [, row] = random.pick(GUEST_FRAMES);
    const fixed = wordBytes(row);
    const length =
      fixed + (row.most === undefined ? 0 : random.below(random.once(4) ? row.most : 64));
    const payload = Buffer.alloc(length, random.below(256));
    for (let at = 0; at + 4 <= fixed; at += 4) {
      const numbers = random.once(3)
        ? NUMBERS
        : [0, OPEN.carrier, NEW, ...Object.values(DESCRIPTORS), 100];
      payload.writeUInt32LE(random.pick(numbers), at);
    }
    const bytes = frame(row.type, row.stream === 'none' ? 0 : random.pick(STREAMS), payload);
    if (random.once(20)) bytes[random.below(bytes.length)] = random.below(256);
    return bytes;
  });
  const whole = Buffer.concat(parts);
  return random.once(10) ? whole.subarray(0, random.below(whole.length)) : whole;
}

test('the relay takes whatever a guest sends, under sanitizers', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-fuzz-port-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const program = await buildPortHarness(directory);
  const seed = Date.now() >>> 0;
  const random = new Random(seed);
  const cases = Array.from({ length: CASES }, () => damaged(random));
  const refused = await readByRelay(program, directory, cases);
  t.is(refused.length, CASES, `seed ${seed}`);
  t.true(refused.filter(Boolean).length > CASES / 4);
  t.true(refused.filter((it) => !it).length > CASES / 20);
});
