import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type BusyboxState, IMAGE, KILN } from '../../test/support/busybox-state.ts';
import { daemonPid, endDaemon } from '../../test/support/daemon.ts';
import { eventually, property, systemctl } from './services.ts';

const top = join(import.meta.dirname, '../..');
const units = '/etc/systemd/system';
const DEFAULT_STATE = '/var/lib/kiln';
const SERVICE = 'kiln.service';
const BUILD_ID = join(top, 'dist/build-id');

/** Seconds: emulated, a run takes some. */
const IDLE = '45s';

/** The unit that a process is in, as the kernel has it. */
async function unitOf(pid: number): Promise<string> {
  const groups = await readFile(`/proc/${pid}/cgroup`, 'utf8');
  return groups.trim().split('/').at(-1) ?? '';
}

const mainProcess = async () => Number(await property(SERVICE, 'MainPID'));
const isInactive = async () => (await property(SERVICE, 'ActiveState')) === 'inactive';

/** kilnd as a client starts it, and as systemd does: in units of their own, and nothing is lost between the two. */
export async function checkDaemon(state: BusyboxState): Promise<void> {
  await checkSession(state);
  // Units know the default state alone; nothing is there on such a host.
  await rm(DEFAULT_STATE, { recursive: true, force: true });
  await symlink(state.paths.root, DEFAULT_STATE);
  const buildId = await readFile(BUILD_ID, 'utf8');
  try {
    await checkSocket(state);
    await checkUpgrade(buildId);
  } finally {
    await writeFile(BUILD_ID, buildId);
    await systemctl('disable', '--now', 'kiln.socket').catch(() => undefined);
    await systemctl('stop', SERVICE).catch(() => undefined);
    for (const name of ['kiln.socket', SERVICE]) await rm(join(units, name), { force: true });
    await systemctl('daemon-reload');
    await rm(DEFAULT_STATE);
  }
}

/** `kiln run` by the daemon of the default state. */
function run(...command: readonly string[]) {
  const { KILN_STATE: _, KILN_FROM_SOURCE: __, ...env } = process.env;
  return execa(KILN, ['run', '-r', IMAGE, '--', ...command], { env, extendEnv: false });
}

/** The daemon outlives the unit of the client that started it, such as a CI job. */
async function checkSession(state: BusyboxState): Promise<void> {
  const set = [`KILN_STATE=${state.paths.root}`, `KILN_NODE=${process.execPath}`];
  const unit = ['--wait', '--collect', '--quiet', '--property=KillMode=control-group'];
  const words = [...unit, ...set.map((word) => `--setenv=${word}`)];
  await execa('systemd-run', [...words, KILN, 'run', '-r', IMAGE, '--', 'true']);
  const pid = daemonPid(state.paths.root);
  assert.ok(pid, 'the daemon is there');
  assert.match(await unitOf(pid), /^kilnd-\d+\.scope$/);
  await endDaemon(state.paths.root);
}

/** kiln.socket is enabled while a client's daemon has a job, starts another, which is stopped, and ends when idle. */
async function checkSocket(state: BusyboxState): Promise<void> {
  const job = run('sh', '-c', 'echo begun; sleep 60; echo done');
  await eventually('a daemon that a client started', async () => daemonPid(state.paths.root));
  const service = await readFile(join(top, 'units/kiln.service'), 'utf8');
  const here = service.replace('/opt/kiln', top).replace('KILN_IDLE=10m', `KILN_IDLE=${IDLE}`);
  await writeFile(join(units, SERVICE), `${here}Environment=KILN_NODE=${process.execPath}\n`);
  await writeFile(
    join(units, 'kiln.socket'),
    await readFile(join(top, 'units/kiln.socket'), 'utf8'),
  );
  await systemctl('daemon-reload');
  await systemctl('enable', '--now', 'kiln.socket');
  assert.ok(await isInactive(), 'nobody has connected');
  assert.equal((await run('echo', 'on')).stdout, 'on');
  assert.equal(await unitOf(await mainProcess()), SERVICE);
  assert.equal((await job).stdout, 'begun\ndone', 'the job of the daemon before');

  await systemctl('stop', SERVICE);
  assert.equal(await property(SERVICE, 'Result'), 'success');
  assert.ok(existsSync('/run/kiln/io.kiln'), 'the socket stays');
  assert.equal((await run('echo', 'again')).stdout, 'again');
  await eventually('an idle daemon ends', isInactive);
  assert.equal(await property(SERVICE, 'Result'), 'success');
  assert.equal((await run('echo', 'once more')).stdout, 'once more');
}

/** Files of another build: its daemon becomes the main process, and the old one's job ends as ever. */
async function checkUpgrade(buildId: string): Promise<void> {
  const before = await mainProcess();
  const job = run('sh', '-c', 'echo begun; sleep 60; echo done');
  await new Promise((resolve) => job.stdout?.once('data', resolve));
  await writeFile(
    BUILD_ID,
    buildId.replace(/./, (first) => (first === '0' ? '1' : '0')),
  );
  assert.equal((await run('echo', 'new')).stdout, 'new');
  const after = await mainProcess();
  assert.notEqual(after, before);
  assert.equal(await unitOf(after), SERVICE);
  assert.equal(await property(SERVICE, 'ActiveState'), 'active');
  // It takes longer than the new one stays idle: the old one is left alone when the unit ends.
  assert.equal((await job).stdout, 'begun\ndone');
}
