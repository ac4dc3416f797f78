import { once } from 'node:events';
import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { isDead, waitForDeath } from '../../src/host/process/process.ts';
import { instanceFiles } from '../../src/service/lifecycle/store.ts';
import { hasPrevious } from '../../src/service/lifecycle/upgrade.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { endingListener } from '../support/ending-listener.ts';
import { eventually, until } from '../support/eventually.ts';
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
  const { isSupervised } = await import('../../src/service/supervisor/supervisor-client.ts');
  return await isSupervised(instanceFiles(state.paths, 'one'));
}

test.serial('a supervisor that ends during a connection does not count as running', async (t) => {
  const { askSupervisor } = await import('../../src/service/supervisor/supervisor-client.ts');
  const files = instanceFiles(state.paths, 'ending');
  const kill = await endingListener(files.socket);
  const asked = askSupervisor(files, { do: 'ping' });
  kill();
  t.is(await asked, undefined);
  await rm(files.socket);
});

test.serial('a service can be stopped at any moment of its start', async (t) => {
  const delays = [0, 200, 400, 500, 600, 800, 1000, 1500];
  const spans: { readonly from: number; readonly to: number }[] = [];
  for (const delay of delays) {
    const from = Date.now();
    const start = service('start', 'one');
    await sleep(delay);
    const stop = await service('stop', 'one');
    spans.push({ from, to: Date.now() });
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
    // One that is late comes now, not in the next start.
    await sleep(300);
    t.false(await runs());
  }
  t.deepEqual(JSON.parse(String((await state.kiln(['ps', '--json'])).stdout)), []);
  // A supervisor that a stop overtakes ends with its guardian: later it would meet that of the next start. One that had
  // the lock when the stop looked is waited for.
  const { log } = instanceFiles(state.paths, 'one');
  for (const line of (await readFile(log, 'utf8')).split('\n')) {
    if (!line.endsWith('stopped before it began')) continue;
    const at = Date.parse(line.slice(0, 24));
    t.true(
      spans.some(({ from, to }) => from <= at && at <= to),
      line,
    );
  }
});

test.serial('a process that only tests the lock is not taken for a supervisor', async (t) => {
  const { supervisorLock } = instanceFiles(state.paths, 'one');
  const args = ['--shared', '--no-fork', supervisorLock, 'sh', '-c', 'echo; exec sleep 60'];
  const look = execa('flock', args, { reject: false });
  await once(look.stdout, 'data');
  t.false(await runs());
  t.is((await service('stop', 'one')).stdout, 'one did not run');
  look.kill('SIGKILL');
  await look;
});

test.serial('a stop is heard before the sandbox of a service is open', async (t) => {
  // libvirtd runs after that; while it is stopped no sandbox opens.
  await state.kiln(['run', '-r', IMAGE, '--', 'true']);
  const libvirtd = Number(await readFile(embeddedFiles(state.paths).pid, 'utf8'));
  const held = await stopped(libvirtd);
  const patient = { env: { ...state.env, KILN_PATIENCE: String(60 * PATIENCE) } };
  try {
    const start = state.kiln(['service', 'start', 'one'], patient);
    await eventually(runs);
    const stop = state.kiln(['service', 'stop', 'one'], patient);
    await sleep(2000 * PATIENCE);
    held[Symbol.dispose]();
    const [started, ended] = await Promise.all([start, stop]);
    t.is(ended.exitCode, 0, `stop hung: ${ended.stderr}`);
    t.is(ended.stdout, 'one is stopped');
    t.is(started.exitCode, 125);
    t.regex(String(started.stderr), /one was stopped while it started/);
    t.false(await runs());
  } finally {
    held[Symbol.dispose]();
  }
});

test.serial('status and list report a stopped supervisor; execute and stop end', async (t) => {
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
  t.true(await waitForDeath(initPid, 20_000 * PATIENCE));
});

test.serial('a start ends when the supervisor that it waits for is stopped', async (t) => {
  t.is((await service('start', 'one')).exitCode, 0);
  const { supervisorPid } = (await statusOf('one'))!;
  using _ = await stopped(supervisorPid);
  const { waitUntilStarted } = await import('../../src/service/lifecycle/start-stop.ts');
  const files = instanceFiles(state.paths, 'one');
  const before = process.env.KILN_PATIENCE;
  process.env.KILN_PATIENCE = '2';
  try {
    await t.throwsAsync(
      waitUntilStarted('one', files, Date.now(), () => false),
      { message: /gave up waiting for the supervisor of one \(pid \d+\), which is stopped/ },
    );
  } finally {
    // What the following tests start has it from here.
    if (before === undefined) delete process.env.KILN_PATIENCE;
    else process.env.KILN_PATIENCE = before;
  }
});

/** The image under another id. */
async function secondImage(): Promise<string> {
  const id = 'c'.repeat(64);
  const target = join(state.paths.images, id);
  await cp(join(state.paths.images, IMAGE), target, { recursive: true, verbatimSymlinks: true });
  const manifest = JSON.parse(await readFile(join(target, 'image.json'), 'utf8')) as object;
  await writeFile(join(target, 'image.json'), JSON.stringify({ ...manifest, id }));
  return id;
}

/** The shell that starts the supervisor again leads a process group: with what it starts, and copies of itself. */
async function guardian(): Promise<number | undefined> {
  const { wanted } = instanceFiles(state.paths, 'one');
  const named = await readFile(wanted, 'utf8').catch(() => '');
  const [pid] = named.split(' ').map(Number);
  return pid === undefined || pid < 2 || isDead(pid) ? undefined : pid;
}

/** Has an upgrade last until the first check, ten seconds after the start: it is to be killed before. */
async function withHealthCheck(): Promise<AsyncDisposable> {
  const set = await service('set', 'one', '--health', 'true');
  if (set.exitCode !== 0) throw new Error(set.stderr);
  return {
    async [Symbol.asyncDispose]() {
      await service('set', 'one', '--unset', 'health');
    },
  };
}

test.serial('an upgrade ends when its guardian is killed, and releases its lock', async (t) => {
  await service('stop', 'one');
  await using _ = await withHealthCheck();
  t.is((await service('start', 'one')).exitCode, 0);
  const before = await guardian();
  t.truthy(before);
  const upgrade = service('upgrade', 'one', '--to', await secondImage());
  const next = await eventually(async () => {
    const pid = await guardian();
    return pid !== before && pid;
  });
  process.kill(-next, 'SIGKILL');
  const { exitCode, signal, stderr } = await upgrade;
  t.is(signal, undefined, 'it hung');
  t.is(exitCode, 125, stderr);
  t.regex(stderr, /one is back on its old image/);
  t.is((await statusOf('one'))?.image, IMAGE);
});

test.serial('an upgrade undoes an earlier one whose maker was killed', async (t) => {
  const id = await secondImage();
  const files = instanceFiles(state.paths, 'one');
  const check = await withHealthCheck();
  const upgrade = execa(KILN, ['service', 'upgrade', 'one', '--to', id], {
    env: state.env,
    reject: false,
    stdin: 'ignore',
  });
  t.true(await until(() => hasPrevious(files)));
  upgrade.kill('SIGKILL');
  await upgrade;
  t.true(hasPrevious(files));
  await service('stop', 'one');
  await check[Symbol.asyncDispose]();
  const again = await service('upgrade', 'one', '--to', id);
  t.is(again.exitCode, 0, again.stderr);
  t.false(hasPrevious(files));
  const [listed] = JSON.parse((await service('list', '--json', 'one')).stdout) as {
    image: string;
  }[];
  t.is(listed?.image, id);
});
