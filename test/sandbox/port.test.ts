import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { DESCRIPTORS, FRAMES, PORT } from '../../src/sandbox/wire/port.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import {
  buildPortHarness,
  frame,
  GUEST_FRAMES,
  HOST_FRAMES,
  NEW,
  OPEN,
  readByRelay,
  wordBytes,
  words,
} from '../support/port-harness.ts';

const { data, message, credit, end, reset, close, passed, open, datagram } = FRAMES;
const { hello, ready, disconnect } = FRAMES;

const TERMINAL = DESCRIPTORS.terminal;

/** What a guest may send, by what it is. */
const GOOD: Readonly<Record<string, Buffer>> = {
  nothing: Buffer.alloc(0),
  'output, its end and its close': Buffer.concat([
    frame(data.type, OPEN.output, Buffer.from('out')),
    frame(end.type, OPEN.output),
    frame(close.type, OPEN.output),
  ]),
  'a window of output': Buffer.concat(
    Array.from({ length: 8 }, () =>
      frame(data.type, OPEN.output, Buffer.alloc(PORT.window / 8 - 64)),
    ),
  ),
  'no more input': Buffer.concat([frame(reset.type, OPEN.input), frame(close.type, OPEN.input)]),
  'an answer': frame(message.type, 0, Buffer.concat([words(0), Buffer.alloc(100)])),
  'an answer that waits for a command': frame(
    message.type,
    0,
    Buffer.concat([words(7), Buffer.alloc(9)]),
  ),
  'a terminal': Buffer.concat([
    frame(passed.type, NEW, words(OPEN.carrier, TERMINAL, 0)),
    frame(data.type, NEW, Buffer.from('prompt')),
    frame(end.type, NEW),
    frame(close.type, NEW),
  ]),
  'a listener and a connection to it': Buffer.concat([
    frame(passed.type, NEW, words(OPEN.carrier, DESCRIPTORS.listener, 0)),
    frame(open.type, NEW + 1, words(NEW)),
    frame(data.type, NEW + 1, Buffer.from('request')),
    frame(close.type, NEW + 1),
    frame(close.type, NEW),
  ]),
  datagrams: Buffer.concat([
    frame(passed.type, NEW, words(OPEN.carrier, DESCRIPTORS.datagrams, 0)),
    frame(datagram.type, NEW, Buffer.concat([words(0, 67), Buffer.from('lease')])),
  ]),
  'the end of the connection': frame(disconnect.type, 0),
};

const BAD: Readonly<Record<string, Buffer>> = {
  'a second hello': frame(hello.type, 0, words(PORT.version)),
  'a second ready': frame(ready.type, 0),
  'an unknown frame': frame(99, 0),
  'frame 0': frame(0, 0),
  'a frame that is too long': Buffer.concat([words(PORT.payload + 1), words(9)]),
  'data for no stream': frame(data.type, 77, Buffer.from('x')),
  'data for the connection': frame(data.type, 0, Buffer.from('x')),
  'data for a carrier': frame(data.type, OPEN.carrier, Buffer.from('x')),
  'data for what is only read': frame(data.type, OPEN.input, Buffer.from('x')),
  'data after the end': Buffer.concat([
    frame(end.type, OPEN.output),
    frame(data.type, OPEN.output, Buffer.from('x')),
  ]),
  'data after the close': Buffer.concat([
    frame(close.type, OPEN.output),
    frame(data.type, OPEN.output, Buffer.from('x')),
  ]),
  'more than the credit': Buffer.concat(
    // A pipe takes 64 KiB, for which there is credit again.
    Array.from({ length: 12 }, () => frame(data.type, OPEN.output, Buffer.alloc(32_000))),
  ),
  'credit beyond the window': frame(credit.type, OPEN.input, words(PORT.window)),
  'endless answers': Buffer.concat(
    Array.from({ length: 30 }, () =>
      frame(message.type, 0, Buffer.concat([words(0), Buffer.alloc(32_000)])),
    ),
  ),
  'a second end of the connection': Buffer.concat([
    frame(disconnect.type, 0),
    frame(disconnect.type, 0),
    frame(disconnect.type, 0),
  ]),
  'a terminal without a carrier': frame(passed.type, NEW, words(OPEN.output, TERMINAL, 0)),
  'a terminal of the host’s number': frame(passed.type, 5, words(OPEN.carrier, TERMINAL, 0)),
  'a stream twice': Buffer.concat([
    frame(passed.type, NEW, words(OPEN.carrier, TERMINAL, 0)),
    frame(passed.type, NEW, words(OPEN.carrier, TERMINAL, 0)),
  ]),
  'a connection to no listener': frame(open.type, NEW, words(OPEN.output)),
  'a connection to itself': frame(open.type, NEW, words(NEW)),
  'data for a listener': Buffer.concat([
    frame(passed.type, NEW, words(OPEN.carrier, DESCRIPTORS.listener, 0)),
    frame(data.type, NEW, Buffer.from('x')),
  ]),
  'a datagram for a pipe': frame(datagram.type, OPEN.output, words(0, 67)),
  'a pipe that is passed': frame(passed.type, NEW, words(OPEN.carrier, DESCRIPTORS.input, 0)),
  'a share': frame(passed.type, NEW, words(OPEN.carrier, DESCRIPTORS.share, 0)),
};

/** By the table alone: another length, another direction, a stream where there is none. */
function byTable(): [string, Buffer][] {
  const cases: [string, Buffer][] = HOST_FRAMES.map(([name, { type, ...row }]) => [
    `${name}, which is the host’s`,
    frame(type, 0, Buffer.alloc(wordBytes({ type, ...row }))),
  ]);
  for (const [name, row] of GUEST_FRAMES) {
    const least = wordBytes(row);
    const most = least + (row.most ?? 0);
    const stream = row.stream === 'any' ? OPEN.output : 0;
    if (least > 0)
      cases.push([`${name}: too short`, frame(row.type, stream, Buffer.alloc(least - 1))]);
    if (most < PORT.payload) {
      cases.push([`${name}: too long`, frame(row.type, stream, Buffer.alloc(most + 1))]);
    }
    if (row.stream === 'none') {
      cases.push([`${name}: of a stream`, frame(row.type, OPEN.output, Buffer.alloc(least))]);
    }
  }
  return cases;
}

test('no two frames of the table have the same number', (t) => {
  const types = Object.values(FRAMES).map(({ type }) => type);
  t.is(new Set<number>(types).size, types.length);
});

test('the relay refuses every frame of a guest that the table does not allow', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-port-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const program = await buildPortHarness(directory);
  const bad = [...Object.entries(BAD), ...byTable()];
  const all = [...Object.entries(GOOD), ...bad];
  t.true(bad.length > 40);
  const refused = await readByRelay(
    program,
    directory,
    all.map(([, bytes]) => bytes),
  );
  t.is(refused.length, all.length);
  for (const [index, [name]] of all.entries()) t.is(refused[index], !(name in GOOD), name);
});
