/** Callers that are slow, gone, hostile, or not root; and jobs whose worker dies. */

import { once } from 'node:events';
import { chmodSync, readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { type ApiState, apiState, program } from '../support/api.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { eventually } from '../support/eventually.ts';

let state: ApiState;

test.before(async () => {
  state = await apiState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

interface Reply {
  readonly error?: string;
  readonly continues?: boolean;
  // biome-ignore lint/suspicious/noExplicitAny: whatever the daemon says
  readonly parameters: any;
}

/** A connection byte by byte. */
class Raw {
  readonly socket: Socket;
  readonly replies: Reply[] = [];
  #rest = '';

  constructor() {
    this.socket = connect(state.socket);
    this.socket.on('error', () => undefined);
    this.socket.on('data', (bytes) => {
      const messages = (this.#rest + bytes.toString('latin1')).split('\0');
      this.#rest = messages.pop() ?? '';
      this.replies.push(...messages.map((message) => JSON.parse(message)));
    });
  }

  send(method: string, parameters: object = {}, flags: object = {}): this {
    this.socket.write(`${JSON.stringify({ method: `io.kiln.${method}`, parameters, ...flags })}\0`);
    return this;
  }

  /** Waits until there are so many replies. */
  async count(count: number): Promise<Reply[]> {
    for (let i = 0; i < 1000 * PATIENCE && this.replies.length < count; i++) await sleep(10);
    return this.replies;
  }
}

async function until(isSo: () => boolean | Promise<boolean>): Promise<boolean> {
  for (let i = 0; i < 500 * PATIENCE; i++) {
    if (await isSo()) return true;
    await sleep(20);
  }
  return false;
}

/** Resolves when a connection has ended, by whoever. */
const closing = (socket: Socket) =>
  new Promise<void>((resolve) => socket.once('close', () => resolve()));

const image = 'busybox';
const openFiles = () => readdirSync(`/proc/${daemonPid(state.paths.root)}/fd`).map(Number);

const descriptors = () => openFiles().length;

/** The daemon's descriptors once they have not changed for a while: workers that were needed come and go. */
async function filesAtRest(): Promise<number[]> {
  return await eventually(async () => {
    const before = openFiles();
    for (let i = 0; i < 8; i++) {
      await sleep(200);
      if (openFiles().join() !== before.join()) return false;
    }
    return before;
  });
}

async function answers(): Promise<boolean> {
  const before = performance.now();
  const raw = new Raw().send('GetVersion');
  const [reply] = await raw.count(1);
  raw.socket.destroy();
  return reply?.parameters.interface === 1 && performance.now() - before < 2000 * PATIENCE;
}

test.serial(
  'calls on one connection are answered in order; oneway calls get no answer',
  async (t) => {
    const raw = new Raw();
    raw.send('Run', { image, argv: ['sh', '-c', 'sleep 0.3; echo 1'] });
    raw.send('GetVersion', {}, { oneway: true });
    raw.send('Run', { image, argv: ['echo', '2'] });
    raw.send('GetVersion');
    const replies = await raw.count(3);
    t.deepEqual(
      replies.map(({ parameters }) => parameters.stdout ?? parameters.interface),
      ['MQo=', 'Mgo=', 1],
    );
    // Null is what systemd writes for what it leaves out.
    raw.socket.write('{"method":"io.kiln.GetVersion","parameters":null,"more":null}\0');
    t.is((await raw.count(4)).at(-1)?.parameters.interface, 1);
    raw.socket.destroy();
  },
);

test.serial('a call in many pieces and several calls in one piece are read alike', async (t) => {
  const raw = new Raw();
  const call = Buffer.from(`${JSON.stringify({ method: 'io.kiln.GetVersion' })}\0`);
  for (const byte of call) {
    raw.socket.write(Buffer.of(byte));
    await sleep(1);
  }
  raw.socket.write(Buffer.concat([call, call, call]));
  t.is((await raw.count(4)).length, 4);
  raw.socket.destroy();
});

test.serial(
  'a thousand silent callers, half messages and malformed calls leave the daemon unchanged',
  async (t) => {
    const before = (await filesAtRest()).length;
    const all = Array.from({ length: 1000 }, () => new Raw());
    await Promise.all(all.map(({ socket }) => once(socket, 'connect')));
    all[0]?.socket.write('{"method":"io.kiln.Run","parameters":{"argv":["tr');
    const bad = [
      '\0',
      'null\0',
      '[]\0',
      '{}\0',
      '{"method":5}\0',
      '{"method":"x","parameters":[]}\0',
      '{"method":"x","more":1}\0',
      '\xff\xfe\0',
      `${'['.repeat(100_000)}\0`,
    ];
    const closed = bad.map((text, i) => {
      const socket = all[i + 1]?.socket as Socket;
      socket.write(Buffer.from(text, 'latin1'));
      return closing(socket);
    });
    await Promise.all(closed);
    t.true(await answers());
    for (const { socket } of all) socket.destroy();
    t.true(await until(() => descriptors() <= before + 2), `${descriptors()} instead of ${before}`);
  },
);

test.serial('a message of 100 MB is refused, and the next caller is served', async (t) => {
  const memory = () =>
    Number(
      /VmRSS:\s+(\d+)/.exec(
        readFileSync(`/proc/${daemonPid(state.paths.root)}/status`, 'utf8'),
      )?.[1],
    ) * 1024;
  const before = memory();
  const raw = new Raw();
  const closed = closing(raw.socket);
  raw.socket.write('{"method":"io.kiln.Run","parameters":{"argv":["');
  const block = Buffer.alloc(1 << 20, 'x');
  for (let i = 0; i < 100 && !raw.socket.destroyed; i++) {
    if (!raw.socket.write(block))
      await Promise.race([new Promise((resolve) => raw.socket.once('drain', resolve)), closed]);
  }
  raw.socket.write('"]}}\0');
  await closed;
  t.deepEqual(raw.replies, []);
  t.true(await answers());
  t.true(memory() - before < 100 << 20, `${memory() - before} bytes more`);
});

test.serial('the number of calls that may wait behind a long one is bounded', async (t) => {
  const raw = new Raw();
  const closed = closing(raw.socket);
  raw.send('Run', { image, argv: ['sleep', '60'] });
  const call = Buffer.from(`${JSON.stringify({ method: 'io.kiln.GetVersion' })}\0`.repeat(20_000));
  for (let i = 0; i < 100 && !raw.socket.destroyed; i++) raw.socket.write(call);
  await closed;
  t.true(await until(async () => !(await running('sleep 60'))));
});

/** Whether a sandbox runs a command. */
async function running(words: string): Promise<boolean> {
  const raw = new Raw().send('ListSandboxes');
  const [reply] = await raw.count(1);
  raw.socket.destroy();
  return reply?.parameters.sandboxes.some(
    ({ command }: { command: string[] }) => command.join(' ') === words,
  );
}

/** Callers that ask for a run here, one in a worker and an open sandbox, and are gone: what they asked for ends. */
async function comeAndGo(t: ExecutionContext): Promise<void> {
  const here = new Raw().send('Run', { image, argv: ['sleep', '61'] });
  const copyIn = [{ source: '/etc/hostname', target: '/tmp/x' }];
  const there = new Raw().send('Run', { image, argv: ['sleep', '62'], copyIn });
  const opened = new Raw().send('OpenSandbox', { image }, { more: true });
  const [first] = await opened.count(1);
  const { sandbox } = first?.parameters ?? {};
  const inside = new Raw().send('Execute', { sandbox, argv: ['sleep', '63'] }, { more: true });
  await inside.count(1);
  t.true(await until(async () => (await running('sleep 61')) && (await running('sleep 62'))));
  inside.socket.destroy();
  // The sandbox stays, the command does not.
  const look = async () => {
    const raw = new Raw().send('Execute', { sandbox, argv: ['sh', '-c', 'ps'] });
    const [reply] = await raw.count(1);
    raw.socket.destroy();
    return Buffer.from(reply?.parameters.stdout ?? '', 'base64').toString();
  };
  t.true(await until(async () => !/sleep 63/.test(await look())));
  for (const { socket } of [here, there, opened]) socket.destroy();
  t.true(await until(async () => !(await running('sleep 61')) && !(await running('sleep 62'))));
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
}

test.serial('a caller that disconnects ends its job, wherever the job runs', async (t) => {
  // What the daemon opens once, such as the connection of a worker that waits, it has after the first time.
  await comeAndGo(t);
  const before = (await filesAtRest()).length;
  await comeAndGo(t);
  t.true(await until(() => descriptors() <= before + 2), `${descriptors()} instead of ${before}`);
});

test.serial('a caller that does not read its output holds up only its own command', async (t) => {
  const raw = new Raw();
  raw.socket.pause();
  raw.send('Run', { image, argv: ['sh', '-c', 'head -c 40000000 /dev/zero'] }, { more: true });
  await sleep(1500);
  t.true(await answers());
  raw.socket.resume();
  t.true(await until(() => raw.replies.some(({ parameters }) => parameters.result)));
  const bytes = raw.replies.map(
    ({ parameters }) => Buffer.from(parameters.stdout ?? '', 'base64').length,
  );
  t.is(
    bytes.reduce((sum, each) => sum + each, 0),
    40_000_000,
  );
  raw.socket.destroy();
});

test.serial('a command in a worker gets input and signals from its caller only', async (t) => {
  const raw = new Raw();
  const copyIn = [{ source: '/etc/hostname', target: '/tmp/x' }];
  const argv = ['sh', '-c', 'trap "echo got it" USR1; read a; echo "<$a>"; sleep 1; cat'];
  raw.send('Run', { image, argv, copyIn, interactive: true }, { more: true });
  await until(() => raw.replies.some(({ parameters }) => parameters.started));
  const { process: name } =
    raw.replies.find(({ parameters }) => parameters.started)?.parameters.started ?? {};
  const control = new Raw();
  control.send('SendInput', { process: name, data: 'aGVsbG8K' });
  control.send('SendSignal', { process: name, signal: 'SIGNONE' });
  await control.count(2);
  t.is(control.replies[1]?.parameters.code, 'E_ARGUMENT');
  const said = () =>
    raw.replies
      .map(({ parameters }) => Buffer.from(parameters.stdout ?? '', 'base64').toString())
      .join('');
  t.true(await until(() => said() === '<hello>\n'));
  control.send('SendSignal', { process: name, signal: 'SIGUSR1' });
  control.send('SendInput', { process: name, end: true });
  control.send('SendInput', { process: 'other', data: '' });
  t.is((await control.count(5))[4]?.parameters.code, 'E_NO_PROCESS');
  t.true(await until(() => raw.replies.some(({ parameters }) => parameters.result)));
  t.is(said(), '<hello>\ngot it\n');
  control.send('SendInput', { process: name, data: '' });
  t.is((await control.count(6))[5]?.parameters.code, 'E_NO_PROCESS');
  raw.socket.destroy();
  control.socket.destroy();
});

/** The workers of the daemon. */
function workers(): number[] {
  const daemon = daemonPid(state.paths.root);
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      if (!(pid > 1)) return false;
      try {
        const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
        const parent = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
        return (
          parent === daemon && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('kilnd-worker')
        );
      } catch {
        return false;
      }
    });
}

test.serial('a caller is told that its worker died, and its sandbox is removed', async (t) => {
  const raw = new Raw();
  const copyIn = [{ source: '/etc/hostname', target: '/tmp/x' }];
  raw.send('Run', { image, argv: ['sleep', '64'], copyIn }, { more: true });
  t.true(await until(() => raw.replies.some(({ parameters }) => parameters.started)));
  for (const pid of workers()) process.kill(pid, 'SIGKILL');
  t.true(await until(() => raw.replies.some(({ error }) => error !== undefined)));
  const last = raw.replies.at(-1);
  t.deepEqual([last?.error, last?.parameters.code], ['io.kiln.Failed', 'E_WORKER']);
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
  raw.send('GetVersion');
  t.true(await until(() => raw.replies.at(-1)?.parameters.interface === 1));
  raw.socket.destroy();
});

test.serial('a daemon without free descriptors says so to callers, and goes on', async (t) => {
  const raw = new Raw().send('GetVersion');
  await raw.count(1);
  const pid = `${daemonPid(state.paths.root)}`;
  const fds = await filesAtRest();
  // Every number below the limit that is free would be taken: none is.
  const first = Array.from({ length: 10_000 }, (_, fd) => fd).find((fd) => !fds.includes(fd)) ?? 0;
  const set = (soft: number) => program('prlimit', ['--pid', pid, `--nofile=${soft}:`]);
  t.is((await set(first)).code, 0);
  raw.send('Doctor', { names: ['landlock'] });
  raw.send('Run', { image, argv: ['true'], copyIn: [{ source: '/etc/hostname', target: '/x' }] });
  const replies = await raw.count(3);
  await set(1024);
  t.deepEqual(
    replies.slice(1).map(({ error, parameters }) => [error, parameters.code]),
    Array.from({ length: 2 }, () => ['io.kiln.Failed', 'E_TOO_MANY_FILES']),
  );
  raw.send('Doctor', { names: ['landlock'] });
  t.is((await raw.count(4))[3]?.parameters.checks?.length, 1);
  t.is(`${daemonPid(state.paths.root)}`, pid);
  raw.socket.destroy();
});

test.serial(
  'callers other than root get PermissionDenied, even where the socket admits them',
  async (t) => {
    chmodSync(state.socket, 0o666);
    chmodSync(dirname(state.socket), 0o755);
    t.teardown(() => chmodSync(state.socket, 0o600));
    const as = (...args: string[]) =>
      program('setpriv', [
        '--reuid=65534',
        '--regid=65534',
        '--clear-groups',
        'varlinkctl',
        ...args,
      ]);
    t.is((await as('call', state.socket, 'io.kiln.GetVersion', '{}')).code, 0);
    t.is((await as('introspect', state.socket, 'io.kiln')).code, 0);
    const file = readFileSync(new URL('./interface.golden', import.meta.url), 'utf8');
    const methods = [...file.matchAll(/^method (\w+)/gm)].map(([, name = '']) => name);
    t.true(methods.length > 20);
    for (const name of methods.filter((each) => !['GetVersion', 'CommandLine'].includes(each))) {
      const ran = await as('call', state.socket, `io.kiln.${name}`, '{"argv":["true"]}');
      t.regex(ran.stderr, /org\.varlink\.service\.PermissionDenied/, name);
    }
  },
);

test.serial('open sandboxes that belong to no connection end with the daemon', async (t) => {
  const raw = new Raw().send('OpenSandbox', { image });
  await raw.count(1);
  raw.socket.destroy();
  // Those of the calls before are removed after they were answered.
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 1));
  const pid = daemonPid(state.paths.root) ?? 0;
  process.kill(pid, 'SIGTERM');
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
});
