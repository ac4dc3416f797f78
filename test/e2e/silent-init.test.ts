import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { isDead } from '../../src/host/process/process.ts';
import { listSandboxes } from '../../src/sandbox/domain/sandbox-record.ts';
import { processesWith } from '../libvirt/private-state.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { stopped } from '../support/stopped.ts';

/** The init of a sandbox is stopped (SIGSTOP) while its command runs. */
let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'latin1').catch(() => '');
  return text.split(' ').filter(Boolean).map(Number);
}

/** The init that serves the commands: pid 1 of a namespace inside of the domain's. */
async function initOf(domain: string): Promise<number | undefined> {
  for (const pid of await processesWith(domain)) {
    const status = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '');
    if (/^NSpid:\t\d+\t\d+\t1$/m.test(status)) return pid;
  }
  return undefined;
}

test('--timeout ends a run whose init is stopped', async (t) => {
  const seconds = 5 * PATIENCE;
  const run = state.kiln(['run', '--timeout', `${seconds}s`, '-r', IMAGE, '--', 'sleep', '1000'], {
    env: { ...state.env, KILN_PATIENCE: '2' },
  });
  let domain = '';
  // Not by `kiln ps`, which takes too much of the run's time on a busy machine.
  for (let tries = 0; domain === '' && tries < 1000 * PATIENCE; tries++) {
    const sandboxes = await listSandboxes(state.paths, { owner: undefined });
    domain = sandboxes.find(({ record }) => record.command !== undefined)?.record.domain ?? '';
    await sleep(10);
  }
  const init = await initOf(domain);
  t.truthy(init);
  // Its command runs.
  for (let tries = 0; tries < 100 && (await childrenOf(init!)).length === 0; tries++)
    await sleep(20);
  using _ = await stopped(init!);
  const { exitCode, stderr } = await run;
  t.is(exitCode, 125, String(stderr));
  t.regex(
    String(stderr),
    /gave up waiting for the init of a sandbox \(pid \d+\), which does not answer/,
  );
  t.true(isDead(init!));
  t.deepEqual(JSON.parse(String((await state.kiln(['ps', '--json'])).stdout)), []);
});
