import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import test from 'ava';
import { execa } from 'execa';
import fc from 'fast-check';
import { KilnError } from '../../src/errors.ts';
import { closeDescriptor } from '../../src/host/calls/descriptor.ts';
import { unixSocketPair } from '../../src/host/sockets/unix-socket.ts';
import { MessageSender } from '../../src/host/sockets/watch.ts';
import { deferred } from '../../src/promise.ts';
import { Channel } from '../../src/sandbox/command/channel.ts';
import type { CommandFacts } from '../../src/sandbox/command/facts.ts';
import { type ProcessEnd, SandboxProcess } from '../../src/sandbox/command/process.ts';
import {
  AnswerDecoder,
  encodeExec,
  encodeMessage,
  encodeRequest,
} from '../../src/sandbox/wire/codec.ts';
import { ANSWERS, FAILURES, FIELDS, type Message, REQUESTS } from '../../src/sandbox/wire/table.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { buildGuestHarness, readByGuest } from '../support/guest-harness.ts';
import { type Damage, damagedMessages, wholeMessage } from '../support/wire-damage.ts';

test('no number stands twice in the table', (t) => {
  const numbers = [
    Object.values(FIELDS).map(({ tag }) => tag),
    Object.values(FAILURES).map(([code]) => code),
    [...Object.values(REQUESTS), ...Object.values(ANSWERS)].map(({ type }) => type),
  ];
  for (const all of numbers) t.is(new Set(all).size, all.length);
});

test('every field of every answer follows the table, or kiln refuses it', (t) => {
  for (const [name, answer] of Object.entries<Message>(ANSWERS)) {
    const whole = wholeMessage(answer);
    t.is(new AnswerDecoder().push(whole.bytes)[0]?.type, name as keyof typeof ANSWERS);
    let count = 0;
    for (const { name: what, bytes, descriptors } of damagedMessages(answer)) {
      // Nothing takes descriptors of an init on this way: the kernel closes them.
      if (descriptors > 0) continue;
      const error = t.throws(() => new AnswerDecoder().push(bytes), undefined, `${name}: ${what}`);
      t.like(error, { code: 'E_PROTOCOL' }, `${name}: ${what}`);
      t.regex(String(error), /sent what it must not send/);
      count++;
    }
    t.true(count > 50, name);
  }
});

test('every field of every request follows the table, or the init refuses it', async (t) => {
  t.timeout(120_000 * PATIENCE);
  const directory = await mkdtemp(join(tmpdir(), 'kiln-wire-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const program = await buildGuestHarness(directory);
  const cases: (Damage & { readonly request: string; readonly good: boolean })[] = [];
  for (const [request, message] of Object.entries<Message>(REQUESTS)) {
    cases.push({ ...wholeMessage(message), request, good: true });
    const before = cases.length;
    for (const damage of damagedMessages(message)) cases.push({ ...damage, request, good: false });
    t.true(cases.length - before > 50, request);
  }
  const read = await readByGuest(program, cases);
  t.is(read.length, cases.length);
  for (const [index, { request, name, good }] of cases.entries()) {
    const expected = good ? { taken: 1, refused: false } : { taken: 0, refused: true };
    t.deepEqual(read[index], expected, `${request}: ${name}`);
  }
});

test('a sandbox whose init sends something invalid is gone, and kiln says why', async (t) => {
  const [ours, theirs] = unixSocketPair();
  const channel = new Channel(ours);
  const asked = channel.ask((answer) => (answer.type === 'ready' ? true : undefined));
  const failed = t.throwsAsync(asked, { code: 'E_PROTOCOL', message: /must not send/ });
  new MessageSender(theirs, () => undefined).send(Buffer.alloc(8, 0xff), []);
  await failed;
  t.true(channel.ended);
  closeDescriptor(theirs);
});

test('the last words of an init are heard, even while kiln is sending', async (t) => {
  const [ours, theirs] = unixSocketPair();
  const channel = new Channel(ours);
  const ended = new Promise((resolve) => channel.once('end', resolve));
  const asked = channel.wait((answer) => (answer.type === 'failed' ? answer.failure : undefined));
  // More than the socket has room for: the rest waits.
  for (let sent = 0; sent < 8; sent++) channel.send(Buffer.alloc(256 * 1024, 1));
  const why = { failure: 'exec', error: 2, number: 3, text: 'x' };
  const failed = encodeMessage(ANSWERS.failed, [
    { op: 'id', id: 7 },
    { op: 'failure', ...why },
  ]);
  new MessageSender(theirs, () => undefined).send(failed, []);
  closeDescriptor(theirs);
  t.is(await asked, 'exec');
  // The kernel calls it a reset where something was not read: the end is an end.
  t.is(await ended, undefined);
});

test('a second failure of a command that is no longer awaited is ignored', async (t) => {
  const gone = deferred<ProcessEnd>();
  const drained = deferred<void>();
  const [stdin, stdout, stderr] = [new PassThrough(), new PassThrough(), new PassThrough()];
  const end = () => undefined;
  const streams = { stdin, stdout, stderr, read: [], end };
  const handed = { onMoved: () => undefined, end, drained: drained.promise };
  const control = { signal: () => undefined, resize: () => undefined };
  const started = { pid: 1, facts: {} as CommandFacts };
  const command = new SandboxProcess(control, started, { ...streams, handed }, gone.promise);
  const heard: Error[] = [];
  command.once('error', (error) => heard.push(error));
  // Not by once() of node:events, which listens to errors itself.
  const lost = new Promise((resolve) => command.once('gone', resolve));
  const close = new Promise((resolve) => command.once('close', resolve));
  gone.reject(new KilnError('E_SANDBOX_GONE', 'gone', { cause: new Error('reset') }));
  await lost;
  drained.reject(new Error('no room'));
  await close;
  t.like(heard, { length: 1, 0: { code: 'E_OUTPUT' } });
});

test('a process that got the pid of a dead init is not taken for the init', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-stale-'));
  t.teardown(() => rm(directory, { recursive: true }));
  const child = join(import.meta.dirname, 'stale-init-child.ts');
  const command = [process.execPath, '--disable-warning=ExperimentalWarning', child];
  const alone = ['--pid', '--fork', '--mount-proc', ...command, join(directory, 'socket')];
  t.is((await execa('unshare', alone)).stdout, 'E_SANDBOX_GONE');
});

test('answers are found however the stream is cut', (t) => {
  const failure = { failure: 'exec', error: 2, number: 3, text: 'x' };
  const stream = Buffer.concat([
    encodeMessage(ANSWERS.ready, [{ op: 'facts', facts: 'ns=x\n' }]),
    encodeMessage(ANSWERS.failed, [
      { op: 'id', id: 7 },
      { op: 'failure', ...failure },
    ]),
    encodeMessage(ANSWERS.quiet, []),
  ]);
  fc.assert(
    fc.property(fc.array(fc.nat(stream.length), { maxLength: 20 }), (cuts) => {
      const decoder = new AnswerDecoder();
      const places = [0, ...cuts.sort((a, b) => a - b), stream.length];
      const answers = places
        .slice(1)
        .flatMap((end, i) => decoder.push(stream.subarray(places[i], end)));
      return (
        JSON.stringify(answers) ===
        JSON.stringify([
          { type: 'ready', facts: 'ns=x\n' },
          { type: 'failed', id: 7, ...failure },
          { type: 'quiet' },
        ])
      );
    }),
  );
  t.pass();
});

test('for any bytes, the decoder answers or refuses, and its memory is bounded', (t) => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 20 }), (chunks) => {
      const decoder = new AnswerDecoder();
      try {
        for (const chunk of chunks) decoder.push(Buffer.from(chunk));
      } catch (error) {
        return error instanceof KilnError && error.code === 'E_PROTOCOL';
      }
      return true;
    }),
    { numRuns: 2000 },
  );
  t.throws(() => new AnswerDecoder().push(Buffer.alloc(8, 0xff)), { code: 'E_PROTOCOL' });
});

test('a request that the init would refuse is not sent', (t) => {
  const command = {
    id: 1,
    environment: [],
    workdir: '/',
    user: '0',
    capabilities: 0n,
    landlock: [],
    openSockets: false,
    limits: [],
    umask: 0,
  };
  const refused = { code: 'E_ARGUMENT' };
  t.throws(() => encodeExec({ ...command, argv: ['a\0b'] }), refused);
  t.throws(() => encodeExec({ ...command, argv: [] }), refused);
  t.throws(() => encodeExec({ ...command, argv: ['x'.repeat(5 << 20)] }), refused);
  t.throws(() => encodeRequest('prepare', [{ op: 'mask', path: '/a\0/b' }]), refused);
  t.throws(() => encodeRequest('prepare', [{ op: 'mask', path: 'proc' }]), refused);
  t.throws(() => encodeRequest('signal', [{ op: 'id', id: 1 }]), refused);
});
