/** The client, as it is built, against the daemon's own server with commands that are plain processes. */

import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import type { CommandLine } from '../../src/daemon/command-line.ts';
import { Activity, Server } from '../../src/daemon/server.ts';
import { closeDescriptor, createPipe } from '../../src/host/calls/descriptor.ts';
import { deferred } from '../../src/promise.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';

const top = join(import.meta.dirname, '../..');
const client = join(top, 'dist/kiln');
const build = readFileSync(join(top, 'dist/build-id'), 'utf8').trim();

/** A server of a state directory of its own, and the client's environment for it. */
function serve(t: ExecutionContext, handle: (line: CommandLine) => Promise<void>) {
  const state = mkdtempSync(join(tmpdir(), 'kiln-client-'));
  const idle: boolean[] = [];
  let outdated = 0;
  const activity = new Activity();
  activity.on('idle', (now) => void idle.push(now));
  const server = new Server({
    activity,
    sockets: [join(state, 'io.kiln')],
    group: undefined,
    build,
    serve: handle,
    call: async (call) => call.fail('org.varlink.service.MethodNotFound'),
    failed: (error) => t.fail(String(error)),
  });
  server.on('outdated', () => outdated++);
  t.teardown(() => {
    server.stopListening();
    rmSync(state, { recursive: true });
  });
  return {
    state,
    idle,
    env: { PATH: process.env.PATH, KILN_STATE: state },
    outdated: () => outdated,
  };
}

/** Runs a program of the host's for a client, as a sandbox's command is run, and ends as it ends. */
async function runOnHost(line: CommandLine, argv: readonly string[]): Promise<void> {
  const [stdin, stdout, stderr] = [createPipe(0), createPipe(0), createPipe(0)];
  const [program = '', ...args] = argv;
  const child = spawn(program, args, { stdio: [stdin.read, stdout.write, stderr.write] });
  for (const fd of [stdin.read, stdout.write, stderr.write]) closeDescriptor(fd);
  line.on('signal', (signal) => child.kill(signal));
  line.on('gone', () => child.kill('SIGKILL'));
  const drained = once(line, 'drained');
  drained.catch(() => undefined);
  line.passStdio(stdin.write, stdout.read, stderr.read);
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  if (line.gone) return;
  const [error] = (await drained) as [string | undefined];
  if (error !== undefined) line.write(2, `output: ${error}\n`);
  line.exit(signal === null ? { status: code ?? 0 } : { signal });
}

/** Says that it runs. */
const RUNNING = 'echo running; exec sleep 60';

const runArguments = (line: CommandLine) => runOnHost(line, line.start.argv.slice(2));

/** Starts the client and gathers what it writes. */
function start(env: NodeJS.ProcessEnv, argv: readonly string[], input?: Buffer | number) {
  const child = spawn(client, ['run', ...argv], {
    env,
    stdio: [typeof input === 'number' ? input : 'pipe', 'pipe', 'pipe'],
  });
  if (typeof input !== 'number') child.stdin?.on('error', () => undefined).end(input);
  return { child, ended: gather(child) };
}

async function gather(child: ChildProcess) {
  const [out, err]: [Buffer[], Buffer[]] = [[], []];
  child.stdout?.on('data', (chunk: Buffer) => out.push(chunk));
  child.stderr?.on('data', (chunk: Buffer) => err.push(chunk));
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  return { code, signal, stdout: Buffer.concat(out), stderr: Buffer.concat(err) };
}

test('arguments, environment, umask and working directory arrive unchanged', async (t) => {
  const seen: CommandLine['start'][] = [];
  const { env } = serve(t, async (line) => {
    seen.push(line.start);
    line.write(1, 'out\n');
    line.write(2, 'err\n');
    line.exit({ status: 7 });
  });
  const argv = ['a b', '', 'ü\n', '--env-file=x', '-'.repeat(100_000)];
  const result = await start({ ...env, ODD: '=x=\n' }, argv).ended;
  t.deepEqual([result.code, `${result.stdout}`, `${result.stderr}`], [7, 'out\n', 'err\n']);
  const [begin] = seen;
  t.deepEqual(begin?.argv, [client, 'run', ...argv]);
  t.is(begin?.env.ODD, '=x=\n');
  t.is(begin?.cwd, process.cwd());
  t.deepEqual(begin?.terminals, [false, false, false]);
});

test('stdin, stdout and stderr pass byte for byte, before the exit status', async (t) => {
  const { env } = serve(t, runArguments);
  const bytes = randomBytes(9_000_000);
  const both = await start(env, ['sh', '-c', 'tee /dev/stderr; exit 3'], bytes).ended;
  t.is(both.code, 3);
  t.true(both.stdout.equals(bytes));
  t.true(both.stderr.equals(bytes));
});

test('stdin and stdout may be files, appended files, /dev/null, or closed', async (t) => {
  const { env, state } = serve(t, runArguments);
  const file = join(state, 'in');
  const out = join(state, 'out');
  writeFileSync(file, randomBytes(300_000));
  const shell = spawn(
    'sh',
    [
      '-c',
      `"$0" run cat <"$1" >>"$2"; "$0" run cat </dev/null >>"$2"; "$0" run cat <&- >>"$2"; "$0" run echo end >>"$2"`,
      client,
      file,
      out,
    ],
    { env, stdio: ['ignore', 'inherit', 'inherit'] },
  );
  await once(shell, 'exit');
  const expected = Buffer.concat([readFileSync(file), Buffer.from('end\n')]);
  const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
  t.is(digest(readFileSync(out)), digest(expected));
});

test('a reader that stops reading ends the command by SIGPIPE', async (t) => {
  const { env } = serve(t, runArguments);
  const shell = spawn('bash', ['-c', '"$0" run yes | head -n 2; echo "$PIPESTATUS"', client], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const { stdout } = await gather(shell);
  t.is(stdout.toString(), 'y\ny\n141\n');
});

test('the daemon hears of a full disk', async (t) => {
  const { env } = serve(t, runArguments);
  const shell = spawn('sh', ['-c', '"$0" run echo lost >/dev/full', client], {
    env,
    stdio: ['ignore', 'inherit', 'pipe'],
  });
  const { stderr } = await gather(shell);
  t.is(stderr.toString(), 'output: ENOSPC\n');
});

test('a signal reaches the command; a client told to end ends by that signal', async (t) => {
  const { env } = serve(t, runArguments);
  const { child, ended } = start(env, ['sh', '-c', RUNNING], openSync('/dev/null', 'r'));
  await once(child.stdout!, 'data');
  child.kill('SIGTERM');
  const result = await ended;
  t.deepEqual([result.code, result.signal], [null, 'SIGTERM']);
  const other = await start(env, ['sh', '-c', 'kill -SEGV $$']).ended;
  t.deepEqual([other.code, other.signal], [139, null]);
});

test('the third ^C ends the client even if the daemon does nothing', async (t) => {
  const served = deferred<void>();
  const { env } = serve(t, (line) => {
    served.resolve();
    return new Promise((resolve) => line.on('gone', resolve));
  });
  const { child, ended } = start(env, ['x']);
  await served.promise;
  // On a busy machine two become one.
  for (let i = 0; i < 100 && child.exitCode === null; i++) {
    child.kill('SIGINT');
    await sleep(200);
  }
  const result = await ended;
  t.is(result.code, 130);
  t.regex(result.stderr.toString(), /interrupted/);
});

test('a signal that comes before any listener is kept for the first one', async (t) => {
  const heard = deferred<NodeJS.Signals[]>();
  const { env } = serve(t, async (line) => {
    line.write(2, 'served\n');
    // The last of the client: what it sent before has come.
    await once(line, 'gone');
    const signals: NodeJS.Signals[] = [];
    line.on('signal', (signal) => signals.push(signal));
    await sleep(0);
    line.on('signal', (signal) => signals.push(signal));
    await sleep(0);
    heard.resolve(signals);
  });
  const { child, ended } = start(env, ['x']);
  await once(child.stderr!, 'data');
  while (child.exitCode === null) {
    child.kill('SIGINT');
    await sleep(50);
  }
  await ended;
  t.deepEqual(await heard.promise, ['SIGINT']);
});

test('the daemon hears at once that a client was killed', async (t) => {
  let gone = 0;
  const { env, idle } = serve(t, async (line) => {
    line.on('gone', () => {
      gone++;
    });
    await runArguments(line);
  });
  const { child, ended } = start(env, ['sh', '-c', RUNNING], openSync('/dev/null', 'r'));
  await once(child.stdout!, 'data');
  child.kill('SIGKILL');
  await ended;
  t.true(await until(() => idle.at(-1) === true));
  t.is(gone, 1);
});

test('a command’s terminal is raw, has the window’s size, and is restored', async (t) => {
  const { env, state } = serve(t, async (line) => {
    t.deepEqual(line.start.terminals, [true, true, true]);
    t.deepEqual([line.start.rows, line.start.columns], [33, 77]);
    await runArguments(line);
  });
  const log = join(state, 'typescript');
  const inner = `stty rows 33 cols 77; '${client}' run echo hello; stty -a | grep -o ' icanon'`;
  const script = spawn('script', ['-qec', inner, log], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const { stdout } = await gather(script);
  t.regex(stdout.toString(), /hello\r?\n icanon/);
});

test('silent connections, half messages and floods end, and stop nobody', async (t) => {
  const { env, state } = serve(t, runArguments);
  const path = join(state, 'io.kiln');
  const open = () =>
    connect(path)
      .on('error', () => undefined)
      .resume();
  const silent = Array.from({ length: 1000 }, open);
  silent[0]?.write('{"method":"io.kiln.Comm');
  silent[1]?.write('not JSON\0');
  silent[2]?.write(
    `${JSON.stringify({ method: 'io.kiln.CommandLine', upgrade: true, parameters: { build } })}\0`,
  );
  silent[2]?.write(Buffer.from([255, 255, 255, 255, 1, 0, 0, 0]));
  const flood = open();
  const block = Buffer.alloc(1 << 20, 'x');
  for (let i = 0; i < 100 && !flood.destroyed; i++) flood.write(block);
  const before = performance.now();
  const { code } = await start(env, ['true']).ended;
  t.is(code, 0);
  t.true(performance.now() - before < 5000 * PATIENCE);
  // What they sent and nobody read makes it a reset.
  for (const socket of [flood, silent[1], silent[2]]) {
    if (socket?.closed === false) await new Promise((resolve) => socket.once('close', resolve));
  }
  for (const socket of silent) socket.destroy();
});

test('a client of another build is told so', async (t) => {
  const { state, outdated } = serve(t, runArguments);
  const socket = connect(join(state, 'io.kiln'));
  socket.write(
    `${JSON.stringify({ method: 'io.kiln.CommandLine', upgrade: true, parameters: { build: 'x' } })}\0`,
  );
  const [answer] = (await once(socket, 'data')) as [Buffer];
  t.like(JSON.parse(answer.toString().slice(0, -1)), { error: 'io.kiln.OtherBuild' });
  t.is(outdated(), 1);
  socket.destroy();
});

test('a server leaves no descriptor behind', async (t) => {
  const { env } = serve(t, runArguments);
  const count = () => readdirSync('/proc/self/fd').length;
  const idle = count();
  await start(env, ['true']).ended;
  for (let i = 0; i < 20; i++) await start(env, ['cat'], Buffer.from('x')).ended;
  // One that is opened once and for all may have come: of twenty, each would leave one.
  t.true(await until(() => count() <= idle + 2), `${count()} instead of ${idle}`);
  closeSync(openSync('/dev/null', 'r'));
});

test('a daemon that cannot be started is an error with a reason and a hint', async (t) => {
  const place = mkdtempSync(join(tmpdir(), 'kiln-place-'));
  t.teardown(() => rmSync(place, { recursive: true }));
  for (const folder of ['dist', 'bin', 'state']) mkdirSync(join(place, folder));
  for (const name of ['kiln', 'build-id']) {
    copyFileSync(join(top, 'dist', name), join(place, 'dist', name));
  }
  const env = { PATH: process.env.PATH, KILN_STATE: join(place, 'state') };
  const kiln = async (...args: string[]) => {
    const child = spawn(join(place, 'dist/kiln'), args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    const { code, stderr } = await gather(child);
    t.is(code, 125);
    return stderr.toString();
  };
  const missing = 'cannot be started: No such file or directory';
  t.regex(
    await kiln('run', '--', 'true'),
    RegExp(
      `^kiln: the daemon could not be started: ${place}/bin/kilnd ${missing} \\[E_NO_DAEMON\\]\n {2}hint: \`kiln doctor\``,
    ),
  );
  t.regex(
    await kiln('doctor'),
    RegExp(`^kiln: ${place}/bin/kiln-node ${missing} \\[E_INSTALLATION\\]\n {2}hint: `),
  );
  const script = '#!/bin/sh\necho no Node 24 >&2\n';
  writeFileSync(join(place, 'bin/kilnd'), script, { mode: 0o755 });
  t.regex(
    await kiln('run', '--', 'true'),
    /^kiln: the daemon could not be started: no Node 24 \[E_NO_DAEMON\]\n {2}hint: /,
  );
});
