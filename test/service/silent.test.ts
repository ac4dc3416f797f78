import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { isDead } from '../../src/kernel/process-end.ts';
import { instanceFiles } from '../../src/service/instance-files.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { stopped } from '../support/stopped.ts';

/** Stopping a service at any moment of its start, and supervisors that are stopped (SIGSTOP). */
let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
  const made = await service('create', '-r', IMAGE, 'one', '--', '/bin/busybox', 'sleep', '100000');
  if (made.exitCode !== 0) throw new Error(made.stderr);
});

test.after.always(async () => {
  await service('stop', 'one');
  await state[Symbol.asyncDispose]();
});

async function service(...args: readonly string[]) {
  const env = { ...state.env, KILN_PATIENCE: String(2 * PATIENCE) };
  const { exitCode, signal, stdout, stderr } = await state.kiln(['service', ...args], { env });
  return { exitCode, signal, stdout: String(stdout), stderr: String(stderr) };
}

async function statusOf(name: string): Promise<ServiceStatus | undefined> {
  const [listed] = JSON.parse((await service('list', '--json', name)).stdout) as {
    status?: ServiceStatus;
  }[];
  return listed?.status;
}

async function runs(): Promise<boolean> {
  const { isSupervised } = await import('../../src/service/stop.ts');
  return await isSupervised(instanceFiles(state.paths, 'one'));
}

test.serial('a service is stopped at any moment of its start', async (t) => {
  const delays = [0, 200, 400, 500, 600, 800, 1000, 1500];
  for (const delay of delays) {
    const start = service('start', 'one');
    await sleep(delay);
    const stop = await service('stop', 'one');
    t.is(stop.signal, undefined, `stop after ${delay} ms hung`);
    t.is(stop.exitCode, 0, stop.stderr);
    const started = await start;
    t.is(started.signal, undefined, `start, stopped after ${delay} ms, hung`);
    if (stop.stdout.includes('is stopped')) {
      t.false(await runs(), `it runs although it was stopped after ${delay} ms`);
      if (started.exitCode !== 0) t.regex(started.stderr, /one was stopped while it started/);
    } else {
      // It came before the start, which then went on.
      t.is(started.exitCode, 0, started.stderr);
      t.regex((await service('stop', 'one')).stdout, /is stopped/);
    }
    t.false(await runs());
  }
  t.deepEqual(JSON.parse(String((await state.kiln(['ps', '--json'])).stdout)), []);
});

test.serial('a stopped supervisor: status and list say so, execute and stop end', async (t) => {
  t.is((await service('start', 'one')).exitCode, 0);
  const { supervisorPid, initPid } = (await statusOf('one'))!;
  const held = await stopped(supervisorPid);
  try {
    const list = await service('list', 'one');
    t.is(list.exitCode, 0, list.stderr);
    t.regex(list.stdout, /^one +silent/m);
    t.true(
      list.stderr.includes(`the supervisor of one (pid ${supervisorPid}), which is stopped`),
      list.stderr,
    );
    t.true(list.stderr.includes(`kill -CONT ${supervisorPid}`));
    for (const args of [
      ['execute', 'one', '--', 'true'],
      ['reload', 'one'],
    ]) {
      const { exitCode, stderr } = await service(...args);
      t.is(exitCode, 125, stderr);
      t.true(stderr.includes(`hint: \`kill -CONT ${supervisorPid}\` lets it go on`), stderr);
    }
    const stop = await service('stop', 'one');
    t.is(stop.exitCode, 0, stop.stderr);
    t.regex(stop.stdout, /one is stopped/);
    t.regex(stop.stderr, /the supervisor of one \(pid \d+\) does not answer: it is killed/);
  } finally {
    held[Symbol.dispose]();
  }
  t.true(isDead(supervisorPid));
  t.true(isDead(initPid));
});

test.serial('a start ends when its supervisor is stopped meanwhile', async (t) => {
  t.is((await service('start', 'one')).exitCode, 0);
  const { supervisorPid } = (await statusOf('one'))!;
  using _ = await stopped(supervisorPid);
  const { waitUntilStarted } = await import('../../src/service/start.ts');
  process.env.KILN_PATIENCE = '2';
  const files = instanceFiles(state.paths, 'one');
  await t.throwsAsync(
    waitUntilStarted('one', files, Date.now(), () => false),
    { message: /gave up waiting for the supervisor of one \(pid \d+\), which is stopped/ },
  );
});
