import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { knownHierarchies } from '../../src/host/cgroup/cgroup.ts';
import { ProcessCgroups } from '../../src/host/cgroup/cgroup-files.ts';
import { waitForDeath } from '../../src/host/process/process.ts';

const ROUNDS = 9;

/** On kernels that hardly wait, there is nothing to gain. Milliseconds. */
const NOTICEABLE = 2;

test.serial('a cgroup move is quick soon after a process was moved to its own one', async (t) => {
  const hierarchy = knownHierarchies().find(({ controllers }) => controllers.includes('pids'));
  if (hierarchy === undefined) throw new Error('no cgroups with a pids controller');
  const groups = ['a', 'b'].map((name) => join(hierarchy.path, `kiln-test-move-${name}`));
  for (const group of groups) mkdirSync(group, { recursive: true });
  const child = spawn('sleep', ['600']);
  t.teardown(async () => {
    child.kill('SIGKILL');
    await waitForDeath(child.pid ?? 0, 5000);
    for (const group of groups) rmdirSync(group);
  });
  const own = () => readFileSync('/proc/self/cgroup', 'utf8');
  const before = own();
  const times: Record<'usual' | 'ready', number[]> = { usual: [], ready: [] };
  for (let round = 0; round < 2 * ROUNDS; round++) {
    await sleep(300);
    const kind = round % 2 === 0 ? 'usual' : 'ready';
    if (kind === 'ready') await ProcessCgroups.primeMove();
    const start = performance.now();
    writeFileSync(join(groups[round % 2] ?? '', 'cgroup.procs'), String(child.pid));
    times[kind].push(performance.now() - start);
  }
  t.is(own(), before);
  const [usual = 0, ready = 0] = [times.usual, times.ready].map(
    (all) => all.toSorted((a, b) => a - b)[ROUNDS >> 1],
  );
  t.log(`${usual.toFixed(1)} ms, and ${ready.toFixed(1)} ms`);
  t.true(usual < NOTICEABLE || ready < usual / 2);
});
