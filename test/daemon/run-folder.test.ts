/** What becomes of kilnd where the folder of its sockets and sandboxes (/run/kiln/…) is removed under it. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import test from 'ava';
import { waitForDeath } from '../../src/host/process/process.ts';
import { busyboxState, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid, endDaemon } from '../support/daemon.ts';
import { eventually } from '../support/eventually.ts';

test('another daemon takes over, and makes it anew', async (t) => {
  await using state = await busyboxState();
  const env = { ...state.env, KILN_FROM_SOURCE: '', KILN_PARKED: '0' };
  const run = async () =>
    (await state.kiln(['run', '-r', 'busybox', '--', 'true'], { env })).exitCode;
  t.is(await run(), 0);
  const pid = daemonPid(state.paths.root) ?? 0;
  await rm(state.paths.run, { recursive: true });
  t.true(await waitForDeath(pid, 60_000 * PATIENCE));
  await eventually(async () => (await run()) === 0);
  const next = daemonPid(state.paths.root);
  t.true(next !== undefined && next !== pid);
});

test('a daemon that ends takes the folder along, unless something is in it', async (t) => {
  await using state = await busyboxState();
  const env = { ...state.env, KILN_FROM_SOURCE: '', KILN_PARKED: '0' };
  t.is((await state.kiln(['ps'], { env })).exitCode, 0);
  t.true(existsSync(state.paths.run));
  await endDaemon(state.paths.root);
  t.false(existsSync(state.paths.run));
});
