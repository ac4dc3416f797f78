/** Confined children that are started before anybody has packages for them. */

import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { startQueueChildren } from '../../src/host/confine/queue.ts';
import { waitForDeath } from '../../src/host/process/process.ts';
import { readIdentities } from '../../src/packages/rpm/read.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { until } from '../support/eventually.ts';
import { packages } from './fixtures.ts';

/** The children of this process that read packages. */
function readers(): number[] {
  return readdirSync('/proc/self/task')
    .flatMap((thread) => readFileSync(`/proc/self/task/${thread}/children`, 'utf8').split(' '))
    .filter(
      (pid) => pid !== '' && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('rpm-read'),
    )
    .map(Number);
}

/** The only one. The kernel may leave out a child while others end (proc_pid_task(5)). */
async function oneReader(): Promise<number> {
  for (let i = 0; i < 100 * PATIENCE; i++) {
    const [one, ...more] = readers();
    if (more.length > 0) throw new Error(`${more.length + 1} readers wait`);
    if (one !== undefined) return one;
    await sleep(20);
  }
  throw new Error('no reader waits');
}

const descriptors = () => readdirSync('/proc/self/fd').length;

async function names(): Promise<string[]> {
  const found: string[] = [];
  for await (const { index, package: rpm } of readIdentities(packages)) {
    found[index] = rpm?.name ?? '';
  }
  return found;
}

test.serial('a spare child is used once, and ends with its queue', async (t) => {
  startQueueChildren();
  t.deepEqual(readers(), [], 'nobody has needed one');
  const expected = await names();
  t.deepEqual(readers(), []);
  const before = descriptors();
  const seen: number[] = [];
  for (let round = 0; round < 3; round++) {
    startQueueChildren();
    startQueueChildren();
    const waiting = await oneReader();
    t.false(seen.includes(waiting));
    seen.push(waiting);
    // The second one finds it on its way, the third one long at rest.
    await sleep(round * 500);
    t.deepEqual(await names(), expected);
    t.true(await waitForDeath(waiting, 1000 * PATIENCE));
    t.deepEqual(readers(), [], 'nothing else was started');
  }
  t.true(await until(() => descriptors() <= before), `${descriptors()} instead of ${before}`);
});

test.serial('a spare child that died is not handed out', async (t) => {
  const expected = await names();
  const before = descriptors();
  startQueueChildren();
  const waiting = await oneReader();
  process.kill(waiting, 'SIGKILL');
  t.true(await until(() => descriptors() <= before));
  t.deepEqual(readers(), []);
  t.deepEqual(await names(), expected);
});
