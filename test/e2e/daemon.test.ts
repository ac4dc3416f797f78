/** `kiln run` by way of kilnd, as a user starts it. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import test from 'ava';
import { waitForDeath } from '../../src/host/process/process.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { daemonPid, endDaemon } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { parkedIds } from '../support/parking.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';

const run = promisify(execFile);
let state: BusyboxState;

/** The environment of a user: no sources, two sandboxes parked. */
const environment = (more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => {
  const { KILN_FROM_SOURCE: _, KILN_PARKED: __, ...rest } = state.env;
  return { ...rest, KILN_IDLE: '60s', ...more };
};

const kiln = (args: readonly string[], more: NodeJS.ProcessEnv = {}) =>
  run(KILN, ['run', '-r', IMAGE.slice(0, 12), ...args], { env: environment(more) });

function pidOfDaemon(): number {
  const pid = daemonPid(state.paths.root);
  if (pid === undefined) throw new Error('no daemon listens');
  return pid;
}

/** A number once both sandboxes wait again and it has not changed for a while. */
async function resting(count: () => number): Promise<number> {
  return await eventually(async () => {
    const before = count();
    for (let i = 0; i < 8; i++) {
      await sleep(200);
      if (parkedIds(state.paths).length !== 2 || count() !== before) return false;
    }
    return before;
  });
}

test.before(async () => {
  state = await busyboxState();
});
test.beforeEach(async () => {
  await endDaemon(state.paths.root);
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

test.serial('the first run starts a daemon, which also runs the next ones', async (t) => {
  t.is(daemonPid(state.paths.root), undefined);
  const first = await kiln(['--', 'sh', '-c', 'echo $PPID; cat /proc/1/comm']);
  t.is(first.stdout, '1\nkiln-init\n');
  const pid = pidOfDaemon();
  t.true(await until(() => parkedIds(state.paths).length === 2));
  const started = performance.now();
  for (let i = 0; i < 5; i++) t.is((await kiln(['--', 'echo', `${i}`])).stdout, `${i}\n`);
  // A Node that starts for itself needs more than twice as long.
  t.log(`${Math.round((performance.now() - started) / 5)} ms a run`);
  t.is(pidOfDaemon(), pid);
});

test.serial('the daemon inherits nothing from its first caller', async (t) => {
  const child = spawn(
    'bash',
    ['-c', 'exec 77</etc/hostname; cd /tmp; umask 077; exec "$0" "$@"'].concat([
      KILN,
      'run',
      '-r',
      IMAGE.slice(0, 12),
      '--',
      'true',
    ]),
    { env: environment({ SECRET_OF_CALLER: 'x', NODE_OPTIONS: '--require=/nowhere.js' }) },
  );
  const [code] = (await once(child, 'exit')) as [number];
  t.is(code, 0);
  const proc = `/proc/${pidOfDaemon()}`;
  t.is(readFileSync(`${proc}/comm`, 'utf8'), 'kilnd\n');
  const env = readFileSync(`${proc}/environ`, 'utf8').split('\0').filter(Boolean);
  const names = env.map((entry) => entry.split('=')[0]).sort();
  const kept = ['PATH', 'PWD', 'KILN_STATE', 'KILN_IDLE', 'KILN_NODE'];
  // What bin/kilnd says to the C library.
  kept.push('MALLOC_ARENA_MAX', 'MALLOC_MMAP_THRESHOLD_');
  t.true(names.every((name) => kept.includes(name!)));
  t.is(readlinkSync(`${proc}/cwd`), '/');
  const files = readdirSync(`${proc}/fd`).map((fd) => {
    try {
      return readlinkSync(`${proc}/fd/${fd}`);
    } catch {
      return '';
    }
  });
  t.false(files.includes('/etc/hostname'));
  t.regex(readFileSync(`${proc}/status`, 'utf8'), /^Umask:\t0022$/m);
  const stat = readFileSync(`${proc}/stat`, 'utf8');
  const [, , , session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  t.is(Number(session), Number(stat.split(' ')[0]));
});

test.serial('kill -9 of the client ends its sandbox; the daemon goes on', async (t) => {
  const seconds = ownSeconds();
  const child = spawn(KILN, ['run', '-r', IMAGE.slice(0, 12), '--', 'sleep', seconds], {
    env: environment(),
    stdio: 'ignore',
  });
  const found = () => processesCalled('sleep', seconds);
  t.true(await until(() => found().length > 0));
  const [pid] = found();
  child.kill('SIGKILL');
  t.true(await waitForDeath(Number(pid), 20_000 * PATIENCE));
  t.is((await kiln(['--', 'echo', 'on'])).stdout, 'on\n');
});

test.serial('kill -9 of the daemon ends its sandboxes, and the next one cleans up', async (t) => {
  await kiln(['--', 'true']);
  const seconds = ownSeconds();
  const child = spawn(
    KILN,
    ['run', '-r', IMAGE.slice(0, 12), '--', 'sh', '-c', `echo up; exec sleep ${seconds}`],
    {
      env: environment(),
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  const said: Buffer[] = [];
  child.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  await once(child.stdout, 'data');
  process.kill(pidOfDaemon(), 'SIGKILL');
  const [code] = (await once(child, 'close')) as [number];
  t.is(code, 125);
  t.regex(Buffer.concat(said).toString(), /the daemon has ended, and the sandbox with it/);
  t.is((await kiln(['--', 'echo', 'again'])).stdout, 'again\n');
  t.true(await until(() => processesCalled('sleep', seconds).length === 0));
});

test.serial('another build replaces the daemon, whose jobs still finish', async (t) => {
  await kiln(['--', 'true']);
  const old = pidOfDaemon();
  const job = kiln(['--', 'sh', '-c', 'sleep 3; echo done']);
  await sleep(700);
  // What a client of another build says.
  const { connect } = await import('node:net');
  const socket = connect(join(state.paths.root, 'io.kiln'));
  socket.write('{"method":"io.kiln.CommandLine","upgrade":true,"parameters":{"build":"other"}}\0');
  await once(socket, 'data');
  socket.destroy();
  t.is((await kiln(['--', 'echo', 'new'])).stdout, 'new\n');
  t.not(pidOfDaemon(), old);
  t.is((await job).stdout, 'done\n');
  t.true(await waitForDeath(old, 20_000 * PATIENCE));
});

test.serial('a sandbox whose run has ended is not listed, even before it is removed', async (t) => {
  // With fixtures a worker would run it, which removes the sandbox first.
  const env = environment({ KILN_FIXTURES: '' });
  // Memory that takes long to be given back.
  const fills = ['sh', '-c', 'dd if=/dev/zero of=/tmp/x bs=1M count=200'];
  for (let i = 0; i < 3; i++) {
    await run(KILN, ['run', '-r', IMAGE, '--', ...fills], { env });
    t.is((await run(KILN, ['ps', '--format', '{{.ID}} {{.State}}'], { env })).stdout, '');
  }
});

test.serial('parked sandboxes are claimed once each, and replaced', async (t) => {
  const park = (...args: string[]) => run(KILN, ['park', ...args], { env: environment() });
  const both = await Promise.all([1, 2].map(() => park('-n', '2')));
  t.deepEqual(
    both.map(({ stdout }) => stdout),
    ['2 of 2 parked\n', '2 of 2 parked\n'],
  );
  const waiting = async () => {
    const { stdout } = await run(KILN, ['ps', '-a', '--json'], { env: environment() });
    const all = JSON.parse(stdout) as { id: string; state: string }[];
    return all.filter(({ state }) => state === 'parked').map(({ id }) => id);
  };
  const before = await waiting();
  await kiln(['--', 'true']);
  t.true(await until(() => parkedIds(state.paths).length === 2));
  const after = await waiting();
  t.is(after.filter((id) => before.includes(id)).length, 1);
  t.is((await park('-n', '1')).stdout, '1 of 1 parked\n');
  t.is((await waiting()).length, 1);
  await park('--none');
  t.deepEqual(await waiting(), []);
});

test.serial('an idle daemon ends, and leaves neither sandbox nor socket', async (t) => {
  await kiln(['--', 'true'], { KILN_IDLE: `${PATIENCE}s` });
  const pid = pidOfDaemon();
  t.true(await waitForDeath(pid, 20_000 * PATIENCE));
  t.is(parkedIds(state.paths).length, 0);
  t.false(existsSync(join(state.paths.root, 'io.kiln')));
});

test.serial('a daemon that cannot start says why', async (t) => {
  const folder = join(state.paths.root, 'file');
  writeFileSync(folder, '');
  const error = (await t.throwsAsync(kiln(['--', 'true'], { KILN_STATE: folder }))) as Error & {
    code: number;
    stderr: string;
  };
  t.is(error.code, 125);
  t.regex(error.stderr, /^kiln: cannot keep kiln’s state in .*file: it is not a folder/);
  t.notRegex(error.stderr, /\n {4}at /);
  await rm(folder);
});

test.serial('forty runs do not make the daemon larger', async (t) => {
  // A test before may have said that none are to wait.
  await run(KILN, ['park', '-n', '2'], { env: environment() });
  for (let i = 0; i < 10; i++) await kiln(['--', 'true']);
  const descriptors = () => readdirSync(`/proc/${pidOfDaemon()}/fd`).length;
  const before = await resting(descriptors);
  for (let i = 0; i < 40; i++) await kiln(['--', 'true']);
  t.true(await until(() => descriptors() <= before + 2), `${descriptors()} instead of ${before}`);
});

test.serial('a stopped daemon is named, and one ^C ends a client that waits', async (t) => {
  await kiln(['--', 'true']);
  const pid = pidOfDaemon();
  process.kill(pid, 'SIGSTOP');
  try {
    const child = spawn(KILN, ['run', '-r', IMAGE.slice(0, 12), '--', 'true'], {
      env: environment(),
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const [said] = (await once(child.stderr, 'data')) as [Buffer];
    t.is(
      `${said}`,
      `kiln: waiting for kilnd (process ${pid}), which is stopped: kill -CONT lets it go on\n`,
    );
    const before = performance.now();
    child.kill('SIGINT');
    const [code] = (await once(child, 'exit')) as [number];
    t.is(code, 130);
    t.true(performance.now() - before < 1000 * PATIENCE);
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  t.is((await kiln(['--', 'echo', 'on'])).stdout, 'on\n');
});

test.serial('a secret may come through a pipe, whose writer may be gone already', async (t) => {
  const pipe = join(state.beside, 'gone');
  await run('mkfifo', [pipe]);
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    await writeFile(pipe, 'once\n');
    const options = ['--secret', `s=${pipe}`, '--', 'cat', '/run/secrets/s'];
    t.is((await kiln(options)).stdout, 'once\n');
  } finally {
    closeSync(reader);
  }
});

test.serial(
  'a secret that nobody writes is waited for, holds up nobody else, and can be left',
  async (t) => {
    const pipe = join(state.beside, 'silent');
    await run('mkfifo', [pipe]);
    const argv = ['run', '-r', IMAGE, '--secret', `s=${pipe}`, '--', 'cat', '/run/secrets/s'];
    const env = { ...environment(), KILN_PATIENCE: '3' };
    const begin = async () => {
      const client = spawn(KILN, argv, { env, stdio: ['ignore', 'pipe', 'pipe'] });
      const [said] = await once(client.stderr, 'data');
      t.is(String(said), 'kiln: waiting for the secret s, a pipe into which nobody writes\n');
      return client;
    };
    const left = await begin();
    t.is((await kiln(['--', 'echo', 'on'])).stdout, 'on\n');
    left.kill('SIGTERM');
    const [status] = await once(left, 'exit');
    t.is(status, 130);
    const served = await begin();
    await writeFile(pipe, 'late\n');
    const [output] = await once(served.stdout, 'data');
    t.is(String(output), 'late\n');
    if (served.exitCode === null) await once(served, 'exit');
    t.is(served.exitCode, 0);
  },
);

test.serial('a seccomp profile from a pipe holds up nobody else', async (t) => {
  await kiln(['--', 'true']);
  const pipe = join(state.beside, 'profile');
  await run('mkfifo', [pipe]);
  const waits = kiln(['--seccomp', pipe, '--', 'true']).catch((error: Error) => error.message);
  await sleep(500);
  const before = performance.now();
  t.is((await kiln(['--', 'echo', 'on'])).stdout, 'on\n');
  t.true(performance.now() - before < 2000 * PATIENCE);
  t.regex(String(await waits), /nothing comes from .*profile, which is a pipe/);
  // A shell's own pipe: the client opens it.
  const given = run('bash', ['-c', '"$0" run -r "$1" --seccomp <(echo x) -- true', KILN, IMAGE], {
    env: environment(),
  });
  const error = await t.throwsAsync(given);
  t.regex(String(error?.message), /\/dev\/fd\/\d+ is not a seccomp profile: SyntaxError/);
});
