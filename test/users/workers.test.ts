/** Who gets the worker that has worked for a user. */
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { kilnGroup, knownHierarchies } from '../../src/host/cgroup/cgroup.ts';
import { ProcessCgroups } from '../../src/host/cgroup/cgroup-files.ts';
import { workGroup } from '../../src/host/cgroup/work-group.ts';
import { waitForDeath } from '../../src/host/process/process.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { workersFor } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import {
  GROUP,
  OTHER,
  SHARED,
  USER,
  type UserState,
  userState,
  writeConfig,
} from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** Serves a user, and returns the worker that waits for that user then. */
async function workerOf(
  { as, paths }: UserState,
  user: typeof USER | typeof OTHER,
  groups = [GROUP, SHARED],
): Promise<number> {
  const { exitCode, stderr } = await as(user, ['image', 'ls'], { groups });
  if (exitCode !== 0) throw new Error(String(stderr));
  return waitingWorker(paths, user);
}

/** Waits until a user has one worker, which has left what it did, and returns it. */
async function waitingWorker(paths: UserState['paths'], user: { uid: number }): Promise<number> {
  const workers = () => workersFor(paths, user.uid);
  // The client ends before its worker has left what it did, and before one that is not needed has ended.
  const waits = () => workers().length === 1 && readlinkSync(`/proc/${workers()[0]}/cwd`) === '/';
  if (!(await until(waits))) throw new Error(`workers: ${workers()}`);
  // kilnd hears of that a moment later, and starts another for a job that comes before.
  await sleep(50 * PATIENCE);
  return workers()[0] ?? 0;
}

/** What a process has open, as /proc names it. */
function openFiles(pid: number): string[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).flatMap((fd) => {
    try {
      return [`${fd}=${readlinkSync(join(folder, fd))}`];
    } catch {
      return [];
    }
  });
}

test.serial('a user’s next job has the same worker, with the limits in force then', async (t) => {
  const worker = await workerOf(t.context, USER);
  t.is(await workerOf(t.context, USER), worker);
  t.is((await t.context.kiln(['image', 'ls'])).exitCode, 0);
  t.is(await workerOf(t.context, USER), worker, 'root had another');
  const limit = () => ProcessCgroups.of(worker).limits('').memory;
  const before = limit();
  writeConfig(t.context.config, '  limits: { sandboxes: 1, memory: 3G }\n');
  t.is(await workerOf(t.context, USER), worker);
  t.not(before, 3 * 2 ** 30);
  t.is(limit(), 3 * 2 ** 30);
});

test.serial('a processor limit that root removes no longer applies', async (t) => {
  writeConfig(t.context.config, '  limits: { sandboxes: 1, cpus: 1 }\n');
  const worker = await workerOf(t.context, USER);
  const limit = () => ProcessCgroups.of(worker).limits('').cpus;
  t.is(limit(), 1);
  writeConfig(t.context.config, '');
  t.is(await workerOf(t.context, USER), worker);
  t.is(limit(), undefined);
});

test.serial('another user gets another worker, and so does a user with other groups', async (t) => {
  const worker = await workerOf(t.context, USER);
  const fewer = await workerOf(t.context, USER, [GROUP]);
  t.not(fewer, worker);
  t.true(await waitForDeath(worker, 5000 * PATIENCE));
  const others = await workerOf(t.context, OTHER);
  t.true(await waitForDeath(fewer, 5000 * PATIENCE));
  t.deepEqual(workersFor(t.context.paths, OTHER.uid), [others]);
});

test.serial('a worker keeps nothing open after a job, and ends when nobody comes', async (t) => {
  const work = async () => {
    const results = ['--artifact', '/etc/passwd', '--resultdir', 'open'];
    const words = ['run', '-r', 'busybox', ...results, '--copy-in', '/etc/passwd:/tmp/x'];
    const { exitCode, stderr } = await t.context.as(USER, [...words, '--', 'true']);
    t.is(exitCode, 0, String(stderr));
    // A call that comes before the worker has left its job gets another worker.
    await waitingWorker(t.context.paths, USER);
  };
  const settled = async (most: number) => {
    let open = openFiles(worker);
    // The worker waits for ten seconds.
    for (const end = Date.now() + 8000; open.length > most && Date.now() < end; ) {
      await sleep(20);
      open = openFiles(worker);
    }
    return open;
  };
  await work();
  await work();
  let worker = await workerOf(t.context, USER);
  let before: string[] = [];
  let now = openFiles(worker);
  // Node opens some files of its own at their first need, and keeps them: those do not grow twice.
  for (let round = 0; round < 5; round++) {
    before = now;
    for (let count = 0; count < 6; count++) await work();
    const other = await workerOf(t.context, USER);
    if (other !== worker) {
      // On a busy machine one came too late for its next job: what the other one has open is new.
      t.log(`worker ${other} in the place of ${worker}`);
      [worker, before, now] = [other, [], openFiles(other)];
      continue;
    }
    now = await settled(before.length);
    if (now.length <= before.length) break;
    t.log(now.filter((file) => !before.includes(file)));
  }
  t.true(now.length <= before.length, `before: ${before.join(' ')}; now: ${now.join(' ')}`);
  t.true(await waitForDeath(worker, 15_000 * PATIENCE));
  // And nobody comes: it is its end that removes the group.
  const group = workGroup(t.context.paths, USER.uid);
  const isGone = () => !knownHierarchies().some(({ path }) => existsSync(kilnGroup(path, group)));
  t.true(await until(isGone));
});
