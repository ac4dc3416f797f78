import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chmod, mkdir, open, readdir, readFile, readlink, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { sandboxFiles } from '../../src/sandbox/domain/sandbox-record.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { endDaemon } from '../support/daemon.ts';
import { until } from '../support/eventually.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';

/** What another user of the host, without any right, can do to a kiln that runs. */
let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** Runs a command as nobody. */
const asNobody = (...argv: readonly string[]) =>
  execa('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', '--', ...argv], {
    reject: false,
    stdin: 'ignore',
  });

/**
 * Runs a command of kiln's; everything that it, and what it starts, has locked with flock(2) by now. A daemon
 * that it starts is traced for the commands that follow as well.
 */
async function lockedBy(log: string, args: readonly string[]): Promise<Set<string>> {
  // The tracer stays with what stays, such as a daemon, and is nobody's child.
  const strace = [
    ...['-D', '-f', '--seccomp-bpf', '-qq', '-y', '-e', 'trace=flock', '-e', 'signal=none'],
    ...['-A', '-o', log],
  ];
  // Not a pipe, which the tracer would hold open.
  const said = await open(`${log}.err`, 'w');
  const traced = spawn('strace', [...strace, KILN, ...args], {
    env: { ...state.env, KILN_FROM_SOURCE: '' },
    stdio: ['ignore', 'ignore', said.fd],
    timeout: 30_000 * PATIENCE,
  });
  const [status] = await once(traced, 'exit');
  await said.close();
  if (status !== 0) throw new Error(await readFile(`${log}.err`, 'utf8'));
  return lockedIn(log);
}

async function lockedIn(log: string): Promise<Set<string>> {
  const calls = (await readFile(log, 'utf8')).matchAll(/flock\(\d+<([^>]+)>/g);
  return new Set([...calls].map(([, path = '']) => path));
}

/** Files below these folders that some process holds a lock on now (proc_pid_fdinfo(5)). */
async function heldBelow(...folders: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    for (const fd of await readdir(`/proc/${pid}/fdinfo`).catch(() => [])) {
      const info = await readFile(`/proc/${pid}/fdinfo/${fd}`, 'utf8').catch(() => '');
      if (!/^lock:/m.test(info)) continue;
      const path = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '');
      if (folders.some((folder) => path.startsWith(`${folder}/`))) found.add(path);
    }
  }
  return [...found];
}

async function cannotOpen(t: ExecutionContext, path: string): Promise<void> {
  const found = await asNobody('flock', '--nonblock', path, 'true');
  t.not(found.exitCode, 0, path);
  t.regex(found.stderr, /Permission denied|No such file/, path);
}

test.serial('other users cannot open what kiln locks', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const archive = join(state.beside, 'tree.tar');
  const recipe = join(state.beside, 'it.yaml');
  await writeFile(recipe, `image: ${IMAGE.slice(0, 12)}\nsteps: ['true']\n`);
  await execa('tar', ['-C', join(state.paths.images, IMAGE, 'tree'), '-cf', archive, '.']);
  const service = ['service', 'create', '-r', IMAGE, 'locks', '--', 'sleep', '1000'];
  // Its libvirtd is not to be traced, nor what that starts.
  t.is((await state.kiln(['run', '-r', IMAGE, '--', 'true'])).exitCode, 0);
  await endDaemon(state.paths.root);
  const locked = new Set<string>();
  const gone: string[] = [];
  const look = async (paths: Set<string>) => {
    for (const path of paths) {
      if (locked.has(path)) continue;
      locked.add(path);
      if (existsSync(path)) await cannotOpen(t, path);
      else gone.push(path);
    }
  };
  const log = join(state.beside, 'strace');
  for (const args of [
    [
      'run',
      '-r',
      IMAGE,
      '--artifact',
      '/etc/*',
      '--resultdir',
      join(state.beside, 'out'),
      '--',
      'true',
    ],
    ['build', recipe, '--resultdir', join(state.beside, 'built')],
    ['image', 'import', archive, '--name', 'imported'],
    ['park', '-n', '1'],
    ['run', '-r', IMAGE, '--', 'true'],
    ['park', '--none'],
    ['gc'],
  ]) {
    await look(await lockedBy(log, args));
  }
  await endDaemon(state.paths.root);
  await look(await lockedIn(log));
  for (const action of [service, ['service', 'start', 'locks']]) {
    const { exitCode, stderr } = await state.kiln(action);
    t.is(exitCode, 0, String(stderr));
  }
  const kept = await heldBelow(state.paths.root, state.paths.run);
  t.true(kept.length > 0);
  for (const path of kept) await cannotOpen(t, path);
  for (const action of [['stop'], ['delete', '--yes']]) {
    t.is((await state.kiln(['service', ...action, 'locks'])).exitCode, 0);
  }
  t.true(locked.has(join(state.paths.hostRun, 'ranges')), [...locked].join('\n'));
  t.true([...locked].some((path) => path.endsWith('/owner.lock')));
  t.true(locked.size >= 8, [...locked].join('\n'));
  // Of those that are gone by now, the folder or what is above it is closed, or they were made so.
  t.true(gone.length > 0);
  const lasting = await execa('find', [
    state.paths.root,
    state.paths.run,
    '-perm',
    '/077',
    '-name',
    '*lock*',
    '-type',
    'f',
  ]);
  t.is(lasting.stdout, '');
});

test.serial('a lock file that others could open is closed to them on its next use', async (t) => {
  const lock = join(state.paths.store, 'locks', 'sync');
  await mkdir(join(lock, '..'), { recursive: true });
  await writeFile(lock, '');
  await chmod(lock, 0o666);
  t.is((await state.kiln(['gc', '--sync-only'])).exitCode, 0);
  t.is((await stat(lock)).mode & 0o777, 0o600);
});

test.serial('other users cannot read the secrets of commands and services', async (t) => {
  const secret = 'hush-of-a-variable';
  const env = `--env=TOKEN=${secret}`;
  const kept = await state.kiln(['run', '-r', IMAGE, env, '--keep=5m', '--', 'true']);
  t.is(kept.exitCode, 0, String(kept.stderr));
  const seconds = ownSeconds();
  const line = `: ${secret}; sleep ${seconds}`;
  const running = state.kiln(['run', '-r', IMAGE, '--', 'sh', '-c', line]);
  t.true(await until(() => processesCalled('sleep', seconds).length > 0));
  const service = [
    'service',
    'create',
    '-r',
    IMAGE,
    env,
    'hush',
    '--',
    'sh',
    '-c',
    `: ${secret}; sleep 99`,
  ];
  t.is((await state.kiln(service)).exitCode, 0);
  t.is((await state.kiln(['service', 'start', 'hush'])).exitCode, 0);
  const recipe = join(state.beside, 'hush.yaml');
  await writeFile(
    recipe,
    `image: ${IMAGE.slice(0, 12)}\nsandbox: { env: { TOKEN: ${secret} } }\nsteps: ['false']\n`,
  );
  await state.kiln(['build', recipe, '--keep=5m', '--resultdir', join(state.beside, 'hush')]);
  const { paths } = state;
  const records = (await readdir(paths.sandboxes)).map((id) =>
    sandboxFiles.record(join(paths.sandboxes, id)),
  );
  t.true(records.length >= 4);
  for (const record of records) t.is((await stat(record)).mode & 0o777, 0o600);
  const found = await execa('grep', ['-rlaI', secret, paths.root, paths.run], { reject: false });
  const files = found.stdout.split('\n').filter(Boolean);
  t.true(files.length >= 4, found.stdout);
  for (const file of files) {
    const read = await asNobody('cat', file);
    t.not(read.exitCode, 0, file);
  }
  t.is((await state.kiln(['service', 'stop', 'hush'])).exitCode, 0);
  await state.kiln(['kill', '--all']);
  await running;
});
