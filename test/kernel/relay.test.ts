import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { createPipe } from '../../src/host/calls/descriptor.ts';
import { canRelayTo, relay } from '../../src/host/sockets/relay.ts';

let directory: string;
/** More than any pipe holds, and no multiple of a page. */
let content: Buffer;

test.before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kiln-relay-'));
  await execa('sh', ['-c', `head -c 20000001 /dev/urandom > ${join(directory, 'source')}`]);
  content = await readFile(join(directory, 'source'));
});
test.after.always(() => rm(directory, { recursive: true, force: true }));

const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');

/** Starts a program whose stdout is a new pipe; returns the pipe's other end. */
function writer(command: string, ...args: readonly string[]) {
  const pipe = createPipe(0);
  const child = spawn(command, args, { stdio: ['ignore', pipe.write, 'ignore'] });
  closeSync(pipe.write);
  return { child, from: pipe.read };
}

/** Starts a program whose stdin is a new pipe; returns the pipe's other end. */
function reader(script: string) {
  const pipe = createPipe(0);
  const child = spawn('sh', ['-c', script], { stdio: [pipe.read, 'pipe', 'ignore'] });
  closeSync(pipe.read);
  const output = child.stdout?.toArray() ?? Promise.resolve([]);
  return { child, to: pipe.write, output };
}

test('everything arrives, in order, through a pipe with a reader that dawdles', async (t) => {
  const { from } = writer('cat', join(directory, 'source'));
  const { to, output } = reader('head -c 100; sleep 0.3; cat');
  let chunks = 0;
  await relay([{ from, to }], () => {
    chunks++;
  });
  closeSync(to);
  t.is(digest(Buffer.concat(await output)), digest(content));
  t.true(chunks > 10, `${chunks} chunks`);
});

test('files are written, and written on where they were opened for appending', async (t) => {
  for (const [flags, before] of [
    ['w', ''],
    ['a', 'what was there\n'],
  ] as const) {
    const path = join(directory, `file-${flags}`);
    await writeFile(path, before);
    const to = openSync(path, flags);
    await relay([{ from: writer('cat', join(directory, 'source')).from, to }], () => undefined);
    closeSync(to);
    t.is(digest(await readFile(path)), digest(Buffer.concat([Buffer.from(before), content])));
  }
});

test('two lanes do not wait for each other', async (t) => {
  t.timeout(60_000);
  const go = join(directory, 'go');
  const slow = writer('sh', '-c', `until [ -e ${go} ]; do sleep 0.05; done; echo late`);
  const quick = writer('echo', 'early');
  const [first, second] = [reader('cat'), reader('cat')];
  const lanes = [
    { from: slow.from, to: first.to },
    { from: quick.from, to: second.to },
  ];
  // The slow one says nothing before something has come through the other lane.
  await relay(lanes, () => writeFileSync(go, ''));
  closeSync(first.to);
  closeSync(second.to);
  t.is(Buffer.concat(await first.output).toString(), 'late\n');
  t.is(Buffer.concat(await second.output).toString(), 'early\n');
});

test('a writer whose reader is gone gets SIGPIPE', async (t) => {
  const { child, from } = writer('yes');
  const { to } = reader('head -n 1');
  const exited = once(child, 'exit');
  await relay([{ from, to }], () => undefined);
  closeSync(to);
  const [, signal] = await exited;
  t.is(signal, 'SIGPIPE');
});

test('a full disk is an error, and ends the writer', async (t) => {
  const { child, from } = writer('yes');
  const to = openSync('/dev/full', 'w');
  const exited = once(child, 'exit');
  const error = await t.throwsAsync(relay([{ from, to }], () => undefined));
  t.regex(error.message, /ENOSPC/);
  closeSync(to);
  const [, signal] = await exited;
  t.is(signal, 'SIGPIPE');
});

test('neither terminals nor sockets are written to', async (t) => {
  const { stdout } = await execa('script', [
    '-qec',
    `'${process.execPath}' -e "import('${join(import.meta.dirname, '../../src/host/sockets/relay.ts')}').then((m) => console.log('tty ' + m.canRelayTo(1)))"`,
    '/dev/null',
  ]);
  t.regex(stdout, /tty false/);
  const pair = spawn('true', { stdio: ['pipe', 'ignore', 'ignore'] });
  // Node makes a socket pair for each stream of a child.
  const { fd } = (pair.stdin as unknown as { _handle: { fd: number } })._handle;
  t.false(canRelayTo(fd));
  t.false(canRelayTo(9999));
  t.true(canRelayTo(openSync('/dev/null', 'w')));
});
