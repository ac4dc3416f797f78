/** kilnd on sockets that somebody else made: systemd's own systemd-socket-activate, which does what kiln.socket does. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { waitForDeath } from '../../src/host/process/process.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { endDaemon } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';

const KILND = join(import.meta.dirname, '../../bin/kilnd');

let state: BusyboxState;
let socket: string;

test.before(async () => {
  state = await busyboxState();
  socket = join(state.paths.root, 'io.kiln');
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** What a file of /proc has; nothing where the process is gone. */
function proc(pid: string, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}

/** The daemons of the state, and for a moment what they have forked and is to become another program. */
function daemons(): number[] {
  return readdirSync('/proc')
    .filter((pid) => proc(pid, 'cmdline').endsWith('kilnd.cjs\0'))
    .filter((pid) => proc(pid, 'environ').split('\0').includes(`KILN_STATE=${state.paths.root}`))
    .map(Number);
}

/** Has the socket made; the first connection becomes the daemon. */
async function activate(t: ExecutionContext, idle = '60s'): Promise<ChildProcess> {
  const child = spawn(
    'systemd-socket-activate',
    [
      ...['-l', socket, '-E', `KILN_STATE=${state.paths.root}`, '-E', `KILN_IDLE=${idle}`],
      ...['-E', `KILN_NODE=${process.execPath}`, '-E', 'KILN_PARKED=1', KILND],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  t.teardown(async () => {
    for (const pid of daemons()) process.kill(pid, 'SIGTERM');
    for (const pid of daemons()) await waitForDeath(pid, 20_000 * PATIENCE);
    child.kill();
  });
  // "Listening on …"
  await once(child.stderr!, 'data');
  child.stderr!.resume();
  return child;
}

const kiln = (...args: readonly string[]) => {
  const { KILN_FROM_SOURCE: _, ...env } = state.env;
  return execa(KILN, ['run', '-r', IMAGE, '--', ...args], { env, extendEnv: false });
};

/** Starts a job that goes on until its input ends, and waits until it has begun. */
async function lasting(): Promise<{ ended: ReturnType<typeof kiln> }> {
  const ended = kiln('sh', '-c', 'echo begun; cat; echo done');
  await once(ended.stdout!, 'data');
  return { ended };
}

test.serial(
  'a connection starts the daemon, which ends when idle and leaves the socket',
  async (t) => {
    const child = await activate(t, `${3 * PATIENCE}s`);
    const exit = once(child, 'exit');
    t.deepEqual(daemons(), []);
    t.is((await kiln('echo', 'on')).stdout, 'on');
    t.true(await until(() => daemons().join() === `${child.pid}`));
    t.deepEqual(await exit, [0, null]);
    t.true(existsSync(socket));
  },
);

test.serial('another build takes over the sockets, and no job is lost', async (t) => {
  const child = await activate(t);
  const { ended: job } = await lasting();
  // What a client of another build says.
  const other = connect(socket);
  other.write('{"method":"io.kiln.CommandLine","upgrade":true,"parameters":{"build":"other"}}\0');
  t.regex(String((await once(other, 'data'))[0]), /OtherBuild/);
  other.destroy();
  t.is((await kiln('echo', 'new')).stdout, 'new');
  t.true(await until(() => daemons().length === 2));
  job.stdin?.end();
  t.is((await job).stdout, 'begun\ndone');
  t.true(await waitForDeath(child.pid!, 20_000 * PATIENCE));
  t.true(await until(() => daemons().length === 1));
  t.is((await kiln('echo', 'still')).stdout, 'still');
});

test.serial(
  'a daemon that a client started makes way for the sockets, and keeps its jobs',
  async (t) => {
    const { ended: job } = await lasting();
    const [old] = daemons() as [number];
    const child = await activate(t);
    t.is((await kiln('echo', 'new')).stdout, 'new');
    const both = [old, child.pid!].toSorted((a, b) => a - b).join();
    t.true(
      await until(
        () =>
          daemons()
            .toSorted((a, b) => a - b)
            .join() === both,
      ),
    );
    job.stdin?.end();
    t.is((await job).stdout, 'begun\ndone');
    t.true(await waitForDeath(old, 20_000 * PATIENCE));
    t.is((await kiln('echo', 'still')).stdout, 'still');
  },
);

test.serial('a daemon that a client starts does not replace systemd’s socket', async (t) => {
  const child = await activate(t);
  const env = { KILN_STATE: state.paths.root, KILN_NODE: process.execPath, PATH: process.env.PATH };
  // As a client does it: what is on descriptor 3 says that somebody listens.
  const stdio = ['ignore', 'ignore', 'pipe', 'pipe'] as const;
  const late = await execa(KILND, { env, extendEnv: false, stdio });
  t.is(late.stdio[3], '\0');
  t.is((await kiln('echo', 'on')).stdout, 'on');
  t.true(await until(() => daemons().join() === `${child.pid}`));
});

test.serial('a descriptor that is not a socket is refused by its number', async (t) => {
  const script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" 3</dev/null';
  const env = { ...state.env, KILN_NODE: process.execPath };
  const refused = await execa('sh', ['-c', script, KILND], { env, reject: false });
  t.is(refused.exitCode, 125);
  t.regex(refused.stderr, /descriptor 3 is not a listening socket/);
  await endDaemon(state.paths.root);
});
