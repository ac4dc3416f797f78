/** Callers who are gone: nobody goes on computing for them. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { waitForDeath } from '../../src/host/process/process.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { daemonPid, workersFor, workersOf } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import { processesCalled } from '../support/processes.ts';
import { USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

const DIST = join(import.meta.dirname, '../../dist');

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async (t) => {
  await t.context[Symbol.asyncDispose]();
});

/** Seconds that no other command sleeps. */
const seconds = (number: number): string => `${process.pid}${number}`;

async function runs(time: string): Promise<boolean> {
  return await until(() => processesCalled('sleep', time).length === 1);
}

/** Stops a process: a thread that computes looks at nothing either. */
function stop(t: { is(a: unknown, b: unknown): void }, pids: readonly number[]): number {
  t.is(pids.length, 1);
  const [pid = 0] = pids;
  process.kill(pid, 'SIGSTOP');
  return pid;
}

test.serial('a busy worker ends with its client, and so does its sandbox', async (t) => {
  const { as, paths } = t.context;
  const time = seconds(1);
  const client = as(USER, ['run', '-r', 'busybox', '--bind', '.:/b', '--', 'sleep', time]);
  t.true(await runs(time));
  const worker = stop(t, workersFor(paths, USER.uid));
  client.kill('SIGKILL');
  await client;
  t.true(await waitForDeath(worker, 15_000 * PATIENCE));
  t.true(await until(() => processesCalled('sleep', time).length === 0));
});

test.serial('a worker that answers a call ends with its client, too', async (t) => {
  const { paths } = t.context;
  const before = workersOf(paths.root);
  const time = seconds(2);
  const socket = connect(join(paths.root, 'io.kiln'));
  const surroundings = { egress: ['packages.invalid'] };
  const parameters = { image: 'busybox', argv: ['sleep', time], surroundings };
  socket.write(`${JSON.stringify({ method: 'io.kiln.Run', parameters })}\0`);
  t.true(await runs(time));
  // One may be spare: it waits for the next caller.
  const workers = workersOf(paths.root);
  const [worker = 0] = workers.filter((pid) => hasChildren(pid) || !before.includes(pid));
  process.kill(worker, 'SIGSTOP');
  socket.destroy();
  t.true(await waitForDeath(worker, 15_000 * PATIENCE));
  t.true(await until(() => processesCalled('sleep', time).length === 0));
});

/** Its proxy. */
function hasChildren(pid: number): boolean {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1') !== '';
}

test.serial('a detached job goes on without its client', async (t) => {
  const { kiln } = t.context;
  const time = seconds(3);
  const { stdout } = await kiln(['run', '-r', 'busybox', '--detach', '--', 'sleep', time]);
  t.true(await runs(time));
  await sleep(12_000);
  t.is(processesCalled('sleep', time).length, 1);
  await kiln(['kill', String(stdout)]);
});

test.serial('kilnd refuses a configuration that is too large, and starts no worker', async (t) => {
  const { run, paths } = t.context;
  const script = readFileSync(join(import.meta.dirname, 'hostile-client.py'), 'utf8');
  const socket = join(paths.root, 'io.kiln');
  const build = readFileSync(join(DIST, 'build-id'), 'utf8').trim();
  const argv = ['/usr/bin/python3', '-c', script, socket, build, 'configuration', '0'];
  const { stdout } = await run(USER, argv);
  t.regex(String(stdout), /\/own: it is larger than 65536 bytes/);
  t.deepEqual(workersFor(paths, USER.uid), []);
});

test.serial('copies for jobs whose kilnd was killed are removed by gc at the latest', async (t) => {
  const { as, kiln, paths, home } = t.context;
  const folders = () => readdirSync(join(paths.root, 'jobs'));
  const daemon = daemonPid(paths.root) ?? 0;
  writeFileSync(join(home, 'copied'), 'x');
  const clients = [4, 5, 6].map((number) => {
    const copy = ['--copy-in', 'copied:/tmp/copied'];
    const argv = ['run', '-r', 'busybox', ...copy, '--', 'sleep', seconds(number)];
    return as(USER, argv, { cwd: home });
  });
  for (const number of [4, 5, 6]) t.true(await runs(seconds(number)));
  t.true(await until(() => workersFor(paths, USER.uid).length === 3));
  const workers = workersFor(paths, USER.uid);
  // A worker that cannot put away what it has.
  for (const pid of workers) process.kill(pid, 'SIGSTOP');
  process.kill(daemon, 'SIGKILL');
  for (const client of clients) client.kill('SIGKILL');
  await Promise.all(clients);
  // Sweeps when it begins.
  await kiln(['ps']);
  // Afterwards it may find one that is nobody's.
  t.true(folders().length >= 6, folders().join(' '));
  for (const pid of workers) process.kill(pid, 'SIGKILL');
  for (const pid of workers) t.true(await waitForDeath(pid, 10_000 * PATIENCE));
  await kiln(['gc']);
  t.deepEqual(folders(), []);
});
