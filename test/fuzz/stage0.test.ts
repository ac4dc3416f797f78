import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Random } from '../../scripts/fuzzing/random.ts';
import { encodeRequest } from '../../src/sandbox/wire/codec.ts';
import { DESCRIPTORS, FRAMES, PORT } from '../../src/sandbox/wire/port.ts';
import { ANSWERS, REQUESTS } from '../../src/sandbox/wire/table.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { isLong } from '../support/long.ts';
import { frame, HOST_FRAMES, NEW, wordBytes, words } from '../support/port-harness.ts';
import { buildStage0Harness, readByStage0, type Stage0Case } from '../support/stage0-harness.ts';
import { wholeMessage } from '../support/wire-damage.ts';

/** Each has a process of its own. */
const CASES = isLong ? 20_000 : 250;

const { begin, connect } = FRAMES;

const NUMBERS = [0, 1, 2, 4, 5, 7, 63, PORT.guest, PORT.window, 2 ** 31, 2 ** 32 - 1];
const STREAMS = [0, 1, 2, 3, 4, 5, PORT.streams - 1, PORT.guest, NEW, NEW + 1, 65535];

const text = (...parts: string[]) => Buffer.from(parts.map((part) => `${part}\0`).join(''));
const PATTERNS = [
  text('0', '/', 'out', ''),
  text('0', '/out', '**', '*.rpm', '', '1', '/', '*', ''),
  text('0', '/', ...Array.from({ length: 70 }, () => '**'), ''),
  text('0'),
  Buffer.from('0'),
];

const MESSAGES = Object.values(REQUESTS).map((row) => wholeMessage(row).bytes);
const ANSWERED = Object.values(ANSWERS).map((row) => wholeMessage(row).bytes);

function dented(bytes: Buffer, random: Random): Buffer {
  const copy = Buffer.from(bytes);
  if (!random.once(6) || copy.length < 4) return copy;
  const at = random.below(copy.length - 3);
  if (random.once(2)) copy.writeUInt32LE(random.pick(NUMBERS), at);
  else copy[at] = random.below(256);
  return copy;
}

/** What a relay may send next, after what it has sent. */
class Relay {
  readonly #random: Random;
  readonly #open = new Map<number, number>();
  #next = 1;

  constructor(random: Random) {
    this.#random = random;
  }

  #descriptor(kind: number): Buffer {
    const { share } = DESCRIPTORS;
    const stream = kind === share ? 0 : this.#next++;
    if (stream > 0) this.#open.set(stream, kind);
    const value = kind === share ? 1 + this.#random.below(2) : 0;
    const flags = this.#random.below(4);
    const command = this.#random.pick([0, 0, 7]);
    return frame(FRAMES.descriptor.type, stream, words(kind, command, value, flags));
  }

  #message(): Buffer[] {
    const kinds = Object.values(DESCRIPTORS).slice(0, 4);
    const count = this.#random.below(4);
    const made = Array.from({ length: count }, () => this.#descriptor(this.#random.pick(kinds)));
    const bytes = dented(this.#random.pick(MESSAGES), this.#random);
    return [...made, frame(FRAMES.message.type, 0, Buffer.concat([words(0), bytes]))];
  }

  #order(): Buffer[] {
    const { output, carrier, share } = DESCRIPTORS;
    const id = { op: 'id', id: this.#random.below(9) } as const;
    const patterns = this.#random.pick(PATTERNS);
    const path = this.#random.pick(['/out/a', '/out', '/nothing', '/out/below/../a']);
    const offset = this.#random.pick([0, 1, 2 ** 40]);
    const addresses = Buffer.alloc(16 * (1 + this.#random.below(2)), this.#random.below(256));
    const family = this.#random.pick(['ipv4', 'ipv6'] as const);
    const card = { op: 'card', nth: this.#random.below(3), family, prefix: 24, addresses } as const;
    const file = { op: 'read-file', offset, uid: 1, gid: 1, path } as const;
    const [bytes, wants] = this.#random.pick([
      [encodeRequest('machine', [id])],
      [encodeRequest('limit', [id, { op: 'machine-limits', memory: 1, pids: 3, quota: 2 }])],
      [encodeRequest('full', [id, { op: 'patterns', patterns }])],
      [encodeRequest('pack', [id, { op: 'patterns', patterns }]), output],
      [encodeRequest('read', [id, file]), output],
      [encodeRequest('processes', [id, { op: 'listing', commands: true }]), output],
      [encodeRequest('set-card', [id, card])],
      [encodeRequest('mount-image', [id, { op: 'place', nth: this.#random.below(9) }]), share],
      [encodeRequest('connect', [id, { op: 'port', port: this.#random.below(9) }]), carrier],
      [encodeRequest('listen', [id, { op: 'port', port: this.#random.below(9) }]), carrier],
    ] as const);
    const made = wants === undefined || this.#random.once(15) ? [] : [this.#descriptor(wants)];
    return [...made, frame(FRAMES.order.type, 0, dented(bytes, this.#random))];
  }

  #ofStream(): Buffer[] {
    const [stream, kind] = this.#random.pick([...this.#open, [0, 0] as const]);
    const { input } = DESCRIPTORS;
    const some = Buffer.alloc(this.#random.below(this.#random.once(9) ? 30_000 : 90), 0x61);
    if (kind === input && !this.#random.once(3)) return [frame(FRAMES.data.type, stream, some)];
    // There is no credit beyond the window, and most of it is still there.
    const bytes = this.#random.once(20) ? 1 : 0;
    if (stream === 0 || this.#random.once(2))
      return [frame(FRAMES.credit.type, stream, words(bytes))];
    const { end, reset, close } = FRAMES;
    const { type } = this.#random.pick([end, reset, close]);
    if (type === close.type) this.#open.delete(stream);
    return [frame(type, stream)];
  }

  frames(): Buffer[] {
    const [reconnect, message, order] = [9, 4, 3];
    if (this.#random.once(reconnect)) {
      return [frame(FRAMES.disconnect.type, 0), frame(connect.type, 0)];
    }
    if (this.#random.once(message)) return this.#message();
    return this.#random.once(order) ? this.#order() : this.#ofStream();
  }
}

function wrong(random: Random): Buffer {
  const [, row] = random.pick(HOST_FRAMES);
  const payload = Buffer.alloc(wordBytes(row) + random.below(40), random.below(256));
  for (let at = 0; at + 4 <= payload.length; at += 4)
    payload.writeUInt32LE(random.pick(NUMBERS), at);
  return frame(row.type, row.stream === 'none' ? 0 : random.pick(STREAMS), payload);
}

/** As the relay sends it, but for a few mistakes: stage 0 ends at the first. */
function damaged(random: Random): Stage0Case {
  const relay = new Relay(random);
  const parts = random.once(20) ? [] : [frame(begin.type, 0, words(1024, 0))];
  if (!random.once(10)) parts.push(frame(connect.type, 0));
  for (let count = 1 + random.below(30); count > 0; count--) {
    parts.push(...(random.once(25) ? [wrong(random)] : relay.frames()));
    const last = parts.at(-1);
    if (random.once(60) && last) last[random.below(last.length)] = random.below(256);
  }
  const whole = Buffer.concat(parts);
  const answers = Array.from({ length: random.below(4) }, () =>
    dented(random.pick(ANSWERED), random),
  );
  return {
    port: random.once(15) ? whole.subarray(0, random.below(whole.length)) : whole,
    init: Buffer.concat(answers),
  };
}

test('stage 0 takes whatever comes through its port and from its init, under sanitizers', async (t) => {
  t.timeout((isLong ? 3_600_000 : 120_000) * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-fuzz-stage0-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const program = await buildStage0Harness(directory);
  const seed = Date.now() >>> 0;
  const random = new Random(seed);
  const cases = Array.from({ length: CASES }, () => damaged(random));
  const { ends, errors } = await readByStage0(program, directory, cases);
  t.is(ends.length, CASES, `seed ${seed}: ${errors}`);
  t.deepEqual(new Set(ends.map(({ end }) => end)), new Set(['off']), `seed ${seed}: ${errors}`);
  // Those of processes that it starts as well.
  t.notRegex(errors, /Sanitizer|runtime error/, `seed ${seed}`);
  // More than that it runs, and that its init listens.
  t.true(ends.filter(({ answered }) => answered > 20).length > CASES / 6);
});
