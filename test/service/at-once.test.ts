import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { cp, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { acquireLock } from '../../src/host/files/flock.ts';
import { isDead } from '../../src/host/process/process.ts';
import { instanceFiles } from '../../src/service/lifecycle/store.ts';
import { hasPrevious } from '../../src/service/lifecycle/upgrade.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { serveSupervised } from '../../src/service/supervisor/supervisor-server.ts';
import { processesWith } from '../libvirt/private-state.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { stopped } from '../support/stopped.ts';

/** Several processes that do something with one service at once. Each test holds one of them up where it matters. */
let state: BusyboxState;

/** Its end takes two seconds, or more on a slow machine. */
const SLOW_END = `trap "sleep ${2 * PATIENCE}; exit 0" TERM; while true; do sleep 0.1; done`;

test.before(async () => {
  state = await busyboxState();
  const made = await service('create', '-r', IMAGE, 'one', '--', '/bin/sh', '-c', SLOW_END);
  if (made.exitCode !== 0) throw new Error(made.stderr);
});

test.after.always(async () => {
  await service('stop', 'one');
  await state[Symbol.asyncDispose]();
});

async function service(...args: readonly string[]) {
  const env = { ...state.env, KILN_PATIENCE: String(20 * PATIENCE) };
  const { exitCode, stdout, stderr } = await state.kiln(['service', ...args], { env });
  return { exitCode, stdout: String(stdout), stderr: String(stderr) };
}

const filesOf = () => instanceFiles(state.paths, 'one');

async function statusOf(): Promise<ServiceStatus | undefined> {
  const [listed] = JSON.parse((await service('list', '--json', 'one')).stdout) as {
    status?: ServiceStatus;
  }[];
  return listed?.status;
}

/** The supervisor dies, and its guardian is held up before it starts another one. */
async function betweenTwoRuns(): Promise<{ readonly guardian: number } & Disposable> {
  const { supervisorPid } = (await statusOf())!;
  const found = await processesWith(filesOf().wanted);
  const [guardian] = found.filter((pid) => pid !== supervisorPid);
  const held = await stopped(guardian!);
  process.kill(supervisorPid, 'SIGKILL');
  // Its parent is held up and takes no notice: it stays a zombie, which holds no lock.
  await eventually(async () => (await statusOf()) === undefined);
  return { guardian: guardian!, [Symbol.dispose]: () => held[Symbol.dispose]() };
}

test.serial('a guardian that wakes late leaves the service to the next one', async (t) => {
  t.is((await service('start', 'one')).exitCode, 0);
  using late = await betweenTwoRuns();
  t.is((await service('stop', 'one')).exitCode, 0);
  const started = await service('start', 'one');
  t.is(started.exitCode, 0, started.stderr);
  const { supervisorPid } = (await statusOf())!;
  late[Symbol.dispose]();
  await eventually(async () => isDead(late.guardian));
  t.is((await statusOf())?.supervisorPid, supervisorPid);
  process.kill(supervisorPid, 'SIGKILL');
  const again = await eventually(statusOf);
  t.truthy(again, 'nobody starts it again');
});

test.serial('an upgrade treats a service that is about to be restarted as running', async (t) => {
  const id = 'c'.repeat(64);
  const target = join(state.paths.images, id);
  await cp(join(state.paths.images, IMAGE), target, { recursive: true, verbatimSymlinks: true });
  const manifest = JSON.parse(await readFile(join(target, 'image.json'), 'utf8')) as object;
  await writeFile(join(target, 'image.json'), JSON.stringify({ ...manifest, id }));
  await service('start', 'one');
  using _late = await betweenTwoRuns();
  const { exitCode, stderr } = await service('upgrade', 'one', '--to', id);
  t.is(exitCode, 0, stderr);
  t.is((await statusOf())?.image, id);
});

test.serial('the image that an upgrade may go back to stays in use meanwhile', async (t) => {
  const { image: before } = (await statusOf())!;
  const check = 'until test -e /var/go; do sleep 0.1; done';
  t.is((await service('set', 'one', '--health', check)).exitCode, 0);
  const { image } = filesOf();
  const upgrade = service('upgrade', 'one', '--to', IMAGE);
  await eventually(async () => (await readFile(image, 'utf8')).includes(IMAGE));
  await eventually(async () => (await statusOf())?.image === IMAGE);
  const removal = await state.kiln(['image', 'rm', before]);
  t.true(hasPrevious(filesOf()), 'the upgrade is over already');
  t.is(removal.exitCode, 125);
  t.regex(String(removal.stderr), /is in use by the service one/);
  t.is((await service('execute', 'one', '--', 'touch', '/var/go')).exitCode, 0);
  const { exitCode, stderr } = await upgrade;
  t.is(exitCode, 0, stderr);
  t.is((await service('set', 'one', '--unset', 'health')).exitCode, 0);
  t.is((await state.kiln(['image', 'rm', before])).exitCode, 0);
});

test.serial('a start during a stop starts the service again', async (t) => {
  await service('start', 'one');
  const before = (await statusOf())!;
  const stop = service('stop', 'one');
  await eventually(async () => (await statusOf())?.state === 'stopping');
  const started = await service('start', 'one');
  t.is((await stop).exitCode, 0);
  t.is(started.exitCode, 0, started.stderr);
  const after = await statusOf();
  t.is(after?.state, 'running', started.stdout);
  t.not(after?.supervisorPid, before.supervisorPid);
  t.is((await service('start', 'one')).stdout, 'one runs already');
});

test.serial('a start that a stop has cancelled does not count as running', async (t) => {
  await service('stop', 'one');
  const files = filesOf();
  await mkdir(files.run, { recursive: true });
  // As a supervisor whose sandbox opens, and whose opening takes its time to be undone.
  const lock = await acquireLock(files.supervisorLock);
  let stopping = false;
  const stop = () => {
    stopping = true;
  };
  const server = serveSupervised(files.socket, {
    instance: () => undefined,
    started: new Promise(() => undefined),
    ...{ stop, isStopping: () => stopping },
  });
  t.teardown(async () => {
    server.close();
    await lock.release();
  });
  t.is((await service('start', 'one')).stdout, 'one runs already');
  const stopped = service('stop', 'one');
  await eventually(async () => stopping);
  const start = service('start', 'one');
  t.is(await Promise.race([start, sleep(1000, 'waits')]), 'waits');
  await server.close();
  await lock.release();
  t.is((await stopped).exitCode, 0);
  const { exitCode, stdout, stderr } = await start;
  t.is(exitCode, 0, stderr);
  t.notRegex(stdout, /already/);
  t.is((await statusOf())?.state, 'running');
});

test.serial('a service does not start while it is copied', async (t) => {
  await service('stop', 'one');
  const { supervisorLock, var: data } = filesOf();
  await execa('dd', ['if=/dev/urandom', `of=${join(data, 'large')}`, 'bs=1M', 'count=100']);
  const output = join(state.beside, 'one.tar.gz');
  const backup = service('backup', 'one', '-o', output);
  while (!existsSync(`${output}.part`)) await sleep(10);
  const free = await execa('flock', ['-n', supervisorLock, 'true'], { reject: false });
  t.true(existsSync(`${output}.part`), 'the backup is over already');
  t.is(free.exitCode, 1, 'a supervisor would get the lock');
  t.is((await backup).exitCode, 0);
  await rm(join(data, 'large'));

  const copying = ['--shared', '--no-fork', supervisorLock, 'sh', '-c', 'echo; exec sleep 60'];
  const copy = execa('flock', copying, { reject: false });
  await once(copy.stdout, 'data');
  const start = service('start', 'one');
  const early = await Promise.race([start, sleep(4000 * PATIENCE)]);
  copy.kill('SIGKILL');
  t.is(early, undefined, 'it ended or began before the copy was made');
  const started = await start;
  t.is(started.exitCode, 0, started.stderr);
  t.is((await statusOf())?.state, 'running');
});

test.serial('a followed log misses no line', async (t) => {
  const count = 'i=0; while true; do echo line $i; i=$((i + 1)); sleep 0.001; done';
  t.is((await service('create', '-r', IMAGE, 'two', '--', '/bin/sh', '-c', count)).exitCode, 0);
  t.is((await service('start', 'two')).exitCode, 0);
  for (let times = 0; times < 10; times++) {
    const { env } = state;
    const follow = execa(KILN, ['service', 'logs', '-f', '-n', '20', 'two'], {
      env,
      reject: false,
    });
    let said = '';
    follow.stdout.on('data', (chunk: Buffer) => {
      said += chunk.toString('latin1');
    });
    await eventually(async () => said.split('\n').length > 100);
    follow.kill('SIGTERM');
    // Whatever process of kiln's follows it: kilnd's worker here.
    t.is((await follow).exitCode, 0);
    const numbers = [...said.matchAll(/line (\d+)$/gm)].map(([, number]) => Number(number));
    const gaps = numbers.filter((number, index) => index > 0 && number !== numbers[index - 1]! + 1);
    t.deepEqual(gaps, [], `lines are missing before these, of ${numbers.length}`);
  }
  t.is((await service('stop', 'two')).exitCode, 0);
  t.is((await service('delete', '--volumes', 'two')).exitCode, 0);
});

test.serial('a service that is deleted during a listing is left out', async (t) => {
  // What a listing finds: the name is there, and what it names no more.
  const gone = join(state.paths.services, 'gone');
  await symlink('nowhere', gone);
  try {
    const { exitCode, stdout, stderr } = await service('list');
    t.is(exitCode, 0, stderr);
    t.regex(stdout, /^one /m);
    t.is((await service('list', 'gone')).exitCode, 125, 'who names it is told');
  } finally {
    await rm(gone);
  }
});
