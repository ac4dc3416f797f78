/** What becomes of kilnd where the folder of its sockets and sandboxes (/run/kiln/…) is removed under it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readlinkSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { waitForDeath } from '../../src/host/process/process.ts';
import { busyboxState, KILN, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid, endDaemon } from '../support/daemon.ts';
import { eventually } from '../support/eventually.ts';

test('another daemon takes over, and makes the run folder anew', async (t) => {
  await using state = await busyboxState();
  const env = { ...state.env, KILN_FROM_SOURCE: '', KILN_PARKED: '0' };
  const run = async () =>
    (await state.kiln(['run', '-r', 'busybox', '--', 'true'], { env })).exitCode;
  t.is(await run(), 0);
  const pid = daemonPid(state.paths.root) ?? 0;
  // libvirtd may still write there.
  await rm(state.paths.run, { recursive: true, maxRetries: 10, retryDelay: 20 });
  t.true(await waitForDeath(pid, 60_000 * PATIENCE));
  await eventually(async () => (await run()) === 0);
  const next = daemonPid(state.paths.root);
  t.true(next !== undefined && next !== pid);
});

test('a daemon that ends removes its run folder, unless something is in it', async (t) => {
  await using state = await busyboxState();
  const env = { ...state.env, KILN_FROM_SOURCE: '', KILN_PARKED: '0' };
  t.is((await state.kiln(['ps'], { env })).exitCode, 0);
  t.is(readlinkSync(join(state.paths.run, 'state')), state.paths.root, 'it says whose it is');
  await endDaemon(state.paths.root);
  t.false(existsSync(state.paths.run));
});

test('a replaced daemon that ends last removes the run folder, too', async (t) => {
  await using state = await busyboxState();
  const env = { ...state.env, KILN_FROM_SOURCE: '', KILN_PARKED: '0' };
  // Nobody reads, so that it waits with the pipe full.
  const exporting = spawn(KILN, ['image', 'export', '-o', '-', 'busybox'], { env });
  t.teardown(() => exporting.kill('SIGKILL'));
  await once(exporting.stdout, 'readable');
  const old = Number(daemonPid(state.paths.root));
  const socket = connect(join(state.paths.root, 'io.kiln'));
  const call = { method: 'io.kiln.CommandLine', upgrade: true, parameters: { build: 'other' } };
  socket.write(`${JSON.stringify(call)}\0`);
  await once(socket, 'data');
  socket.destroy();
  t.is((await state.kiln(['ps'], { env })).exitCode, 0);
  const next = Number(daemonPid(state.paths.root));
  t.not(next, old);
  // Killed, it leaves the folder.
  process.kill(next, 'SIGKILL');
  t.true(await waitForDeath(next, 20_000 * PATIENCE));
  t.true(existsSync(`/proc/${old}`));
  t.true(existsSync(state.paths.run));
  exporting.stdout.resume();
  t.true(await waitForDeath(old, 60_000 * PATIENCE));
  const left = existsSync(state.paths.run) ? readdirSync(state.paths.run) : undefined;
  t.is(left, undefined, `with ${left}`);
});
