/** Who gets a worker: where there are as many as there may be, and where some have died. */

import { existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { Call } from '../../src/daemon/call.ts';
import { WorkerResults } from '../../src/daemon/results.ts';
import { Activity, Server } from '../../src/daemon/server.ts';
import type { WorkersOptions } from '../../src/daemon/worker-process.ts';
import { Workers } from '../../src/daemon/workers.ts';
import { closing } from '../../src/host/calls/descriptor.ts';
import { sweepWorkGroups } from '../../src/host/cgroup/work-group.ts';
import { heldPath } from '../../src/host/files/held.ts';
import { endDaemon } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import { failed } from '../support/failed-run.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import { GROUP, USER, userState } from '../support/second-user.ts';

const MOST = 64;
/** Processes that never answer. */
const TIME = ownSeconds();
const DIST = join(import.meta.dirname, '../../dist');

function workersWith(options: Pick<WorkersOptions, 'command' | 'env'>): Workers {
  return new Workers({
    ...options,
    turns: { take: async () => ({ [Symbol.dispose]: () => undefined }) },
    crashed: () => undefined,
    ended: () => undefined,
    memoryKills: () => 0,
  });
}

test('callers that are gone do not hold up those behind them', async (t) => {
  const env = { PATH: process.env.PATH ?? '' };
  const workers = workersWith({ command: ['sleep', TIME], env });
  t.teardown(() => workers.end());
  const running = () => processesCalled('sleep', TIME);
  const calls: Promise<void>[] = [];
  const work = () => {
    const identity = { uid: 0, gid: 0, pid: process.pid, groups: [] };
    const peer = { identity, send: () => undefined, unsentBytes: 0, sent: async () => undefined };
    const head = { method: 'io.kiln.X', parameters: {}, more: false, oneway: false };
    const call = new Call(peer, { ...head, identity, process: '' });
    calls.push(workers.giveCall(call));
    return call;
  };
  for (let count = 0; count < MOST; count++) work();
  t.true(await until(() => running().length === MOST));
  for (const call of [work(), work(), work()]) call.gone();
  work();
  await setImmediate();
  t.is(running().length, MOST);
  const [first = 0] = running();
  process.kill(first, 'SIGKILL');
  // One look: the first may end between two.
  const isReplaced = (pids: readonly number[]) => pids.length === MOST && !pids.includes(first);
  t.true(await until(() => isReplaced(running())));
  // Each call is tried with two further workers.
  let areOver = false;
  const over = Promise.all(calls).then(() => {
    areOver = true;
  });
  await until(() => {
    for (const pid of running()) process.kill(pid, 'SIGKILL');
    return areOver;
  });
  await over;
});

test('a user is served even if the waiting worker and the spare one die', async (t) => {
  const state = await userState();
  t.teardown(() => state[Symbol.asyncDispose]());
  const { root } = state.paths;
  await endDaemon(root);
  const workers = workersWith({
    command: [process.execPath, join(DIST, 'kilnd-worker.cjs')],
    env: {
      ...{ PATH: process.env.PATH ?? '', HOME: homedir() },
      ...{ KILN_STATE: root, KILN_CONFIG: state.config },
    },
  });
  t.teardown(async () => {
    await workers.end();
    // There is no kilnd that would.
    await sweepWorkGroups(state.paths);
  });
  const ours = () =>
    readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8')
      .trim()
      .split(' ')
      .filter((pid) => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('kilnd-worker.cjs'))
      .map(Number);
  let before = (): void => undefined;
  const server = new Server({
    activity: new Activity(),
    sockets: [join(root, 'io.kiln')],
    group: GROUP,
    build: readFileSync(join(DIST, 'build-id'), 'utf8').trim(),
    serve: async (line) => {
      before();
      await workers.giveLine(line, {});
      served++;
    },
    call: async (call) => {
      before();
      await workers.giveCall(call);
    },
    failed: (error) => t.fail(String(error)),
  });
  t.teardown(() => server.stopListening());
  let served = 0;
  t.is((await state.as(USER, ['image', 'ls'])).exitCode, 0);
  t.true(await until(() => served === 1));
  workers.prepare();
  t.is(ours().length, 2);
  before = () => {
    // In one turn of the event loop: nobody has heard of their ends when the client comes.
    for (const pid of ours()) {
      process.kill(pid, 'SIGKILL');
      while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')));
    }
  };
  const { exitCode, stderr } = await state.as(USER, ['image', 'ls']);
  t.is(exitCode, 0, String(stderr));
  t.true(await until(() => served === 2));
  // A call of root's, which has the spare one.
  workers.prepare();
  const socket = join(root, 'io.kiln');
  const called = await execa('varlinkctl', ['call', socket, 'io.kiln.ListImages', '{}'], {
    reject: false,
  });
  t.is(called.exitCode, 0, called.stderr);
  t.regex(called.stdout, /"images"/);
  // Results of a run in the daemon's own thread.
  workers.prepare();
  const folder = join(root, 'results');
  mkdirSync(folder);
  using held = closing(openSync(folder, 'r'));
  using results = new WorkerResults(workers, 0o022);
  before();
  await results.write(heldPath(held.fd), failed(new Error('it is only tried')), { uid: 0, gid: 0 });
  t.true(existsSync(join(folder, 'result.json')));
});
