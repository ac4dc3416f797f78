/** What goes on while the disk of the state is full, and what is told about it. */
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { attempt } from '../../src/host/calls/libc.ts';
import { isDead, waitForDeath } from '../../src/host/process/process.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';

const disk = mkdtempSync(join(tmpdir(), 'kiln-full-'));
let state: BusyboxState;

test.before(async () => {
  await execa('mount', ['-t', 'tmpfs', '-o', 'size=64m,mode=755', 'tmpfs', disk]);
  state = await busyboxState(disk);
});

test.after.always(async () => {
  await makeRoom();
  await service('stop', 'loud');
  await state[Symbol.asyncDispose]();
  await execa('umount', [disk]);
  rmSync(disk, { recursive: true });
});

const filling = join(disk, 'filling');
const service = (...args: readonly string[]) => state.kiln(['service', ...args]);

/** All but so many bytes. */
async function fill(left = 0): Promise<void> {
  await execa('dd', ['if=/dev/zero', `of=${filling}`, 'bs=64k'], { reject: false });
  await execa('truncate', ['-s', `-${left}`, filling]);
}

const makeRoom = () => rm(filling, { force: true });

async function statusOf(name: string): Promise<ServiceStatus | undefined> {
  const { stdout } = await service('list', '--json', name);
  const [listed] = JSON.parse(String(stdout)) as { status?: ServiceStatus }[];
  return listed?.status;
}

test.serial('a service runs on when its log has no room, and can be stopped', async (t) => {
  const script = 'while :; do seq 2000; sleep 0.2; done';
  await service('create', '-r', IMAGE, 'loud', '--', 'sh', '-c', script);
  t.is((await service('start', 'loud')).exitCode, 0);
  await fill();
  await sleep(2000);
  const full = (await statusOf('loud'))!;
  t.is(full.state, 'running');
  const stopped = await service('stop', 'loud');
  t.is(stopped.exitCode, 0, String(stopped.stderr));
  t.true(isDead(full.initPid), 'its sandbox is gone');
  t.true(await waitForDeath(full.supervisorPid, 5000 * PATIENCE));
  t.regex(String((await service('list')).stdout), /^loud +stopped /m);
  // Whoever starts one that cannot run is told why, at once.
  const port = await freePort();
  const server = createServer().listen(port, '127.0.0.1');
  await makeRoom();
  await service('set', 'loud', '--publish', `${port}:80`);
  await fill();
  const failed = await service('start', 'loud');
  t.is(failed.exitCode, 125);
  t.regex(String(failed.stderr), /cannot listen on 127.0.0.1 port/);
  server.close();
  await makeRoom();
  t.is((await service('start', 'loud')).exitCode, 0);
  await fill();
  await sleep(1000);
  await makeRoom();
  const log = await eventually(async () => {
    const { stdout } = await service('logs', '-n', '100000', 'loud');
    return /kiln: \d+ lines are missing/.test(String(stdout)) && String(stdout);
  });
  // The last of them was cut, or not begun.
  t.regex(log, /kiln: \d+ lines are missing: (?:no space was left|ENOSPC: no space left)/);
  t.is((await service('restart', 'loud')).exitCode, 0);
});

test.serial('a detached job whose output has no room is ended, and says so', async (t) => {
  await makeRoom();
  // Its log would take the room.
  await service('stop', 'loud');
  // Its daemon, with all that it makes, was there before.
  await state.kiln(['run', '-r', 'busybox', '--detach', '--', 'true']);
  await fill(300_000);
  const script = 'echo first; seq 1000000; sleep 1000';
  const begun = await state.kiln(
    ['run', '-r', 'busybox', '--detach', '--name', 'loud', '--', 'sh', '-c', script],
    { timeout: 60_000 },
  );
  t.is(begun.exitCode, 0, String(begun.stderr));
  const waited = await state.kiln(['wait', 'loud']);
  const logs = await state.kiln(['logs', 'loud']);
  t.is(waited.exitCode, 125);
  t.notRegex(String(waited.stderr), /lost/);
  t.regex(String(logs.stdout), /^first\n1\n2\n/);
  t.regex(String(logs.stderr), /^kiln: no room is left for what the job .* \[E_DISK_FULL\]$/);
  const [job] = JSON.parse(String((await state.kiln(['ps', '--jobs', '--json'])).stdout)).slice(-1);
  t.is(`${job.state} ${job.exitStatus}`, 'ended 125');
  // One that begins has room for its last words.
  await fill();
  const refused = await state.kiln(['run', '-r', 'busybox', '--detach', '--', 'true']);
  t.is(refused.exitCode, 125);
  t.regex(String(refused.stderr), /E_DISK_FULL/);
  // Its record has room, and its last words have none.
  await makeRoom();
  await fill(32_000);
  t.is((await state.kiln(['run', '-r', 'busybox', '--detach', '--', 'true'])).exitCode, 125);
  t.deepEqual(openFiles(join(state.paths.root, 'detached')), []);
});

/** Of all processes, below a folder. */
function openFiles(folder: string): string[] {
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const links = (pid: string) =>
    attempt(() => readdirSync(`/proc/${pid}/fd`))?.map((fd) =>
      attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`)),
    ) ?? [];
  return processes
    .flatMap(links)
    .filter((path) => path?.startsWith(`${folder}/`) === true) as string[];
}
