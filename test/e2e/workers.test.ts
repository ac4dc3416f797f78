/** Command lines that the daemon hands to worker processes, as a user starts them. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import test from 'ava';
import { attempt } from '../../src/host/calls/libc.ts';
import { waitForDeath } from '../../src/host/process/process.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { daemonPid, endDaemon, plainEnvironment } from '../support/daemon.ts';
import { eventually, until } from '../support/eventually.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';

const run = promisify(execFile);
let state: BusyboxState;

const environment = (more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({
  ...plainEnvironment(state.env),
  ...more,
});

const kiln = (args: readonly string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}) =>
  run(KILN, args, { ...options, env: environment(options.env) });

/** Processes whose command line, words joined by blanks, is matched. */
function processes(pattern: RegExp): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        const line = readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ');
        return pattern.test(line);
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Those of some processes that a process has started, as far as they are still there. */
function startedBy(parent: number | undefined, pids: readonly number[]): number[] {
  const status = (pid: number) => {
    try {
      return readFileSync(`/proc/${pid}/status`, 'utf8');
    } catch {
      return '';
    }
  };
  return pids.filter((pid) => new RegExp(`^PPid:\t${parent}$`, 'm').test(status(pid)));
}

/** The daemon's worker processes. */
function workers(): number[] {
  return startedBy(daemonPid(state.paths.root), processes(/kilnd-worker\.cjs/));
}

/**
 * The worker that does some work from its begin to its end.
 * A daemon whose only worker is still busy with its last client starts another one: then the work is done again.
 */
async function workerOf(work: (worker: number) => Promise<void>): Promise<number> {
  for (let attempt = 0; attempt < 5; attempt++) {
    if (!(await until(() => workers().length === 1))) break;
    const [worker] = workers();
    await work(Number(worker));
    if (workers().join() === `${worker}`) return Number(worker);
  }
  throw new Error(`no worker does it all: ${workers().join()}`);
}

/** Starts a command that lasts in a sandbox, by a worker, and gives its process and the client. */
async function lasting(
  seconds: string,
  under: readonly string[] = [],
): Promise<{ client: ChildProcess; pid: number; said: Buffer[] }> {
  const args = ['run', '-r', IMAGE, '--copy-in', '/etc/passwd:/tmp/x', '--'];
  args.push('sleep', seconds);
  const [program = KILN, ...words] = [...under, KILN, ...args];
  const client = spawn(program, words, { env: environment(), stdio: ['ignore', 'ignore', 'pipe'] });
  const said: Buffer[] = [];
  client.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  const find = () => processesCalled('sleep', seconds)[0];
  if (!(await until(() => find() !== undefined))) throw new Error(Buffer.concat(said).toString());
  return { client, pid: Number(find()), said };
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

test.serial('a waiting worker takes the next client, and serves many', async (t) => {
  const { stdout } = await kiln(['image', 'ls', '--json']);
  t.is(JSON.parse(stdout)[0].id, IMAGE);
  const first = await workerOf(async () => {
    for (let i = 0; i < 3; i++) await kiln(['image', 'ls']);
  });
  // It has nothing of its callers.
  const names = readFileSync(`/proc/${first}/environ`, 'utf8')
    .split('\0')
    .filter(Boolean)
    .map((entry) => entry.split('=')[0]);
  t.deepEqual(names.sort(), ['HOME', 'KILN_STATE', 'PATH']);
  // It leaves its caller's folder after the caller was told the end.
  t.true(await until(() => readlinkSync(`/proc/${first}/cwd`) === '/'));
  // A caller whose environment says what a process is to be like has one of its own.
  await kiln(['image', 'ls'], { env: { KILN_PATIENCE: '50' } });
  t.true(await until(() => workers().length === 1 && workers()[0] !== first));
});

test.serial('a worker that has made an image takes the next client', async (t) => {
  const archive = join(state.beside, 'image.tar');
  await kiln(['image', 'export', '-o', archive, IMAGE]);
  const images = async () => {
    const { stdout } = await kiln(['image', 'ls', '--json']);
    return JSON.parse(stdout).map(({ id }: { id: string }) => id);
  };
  await workerOf(async (worker) => {
    // After the client was told the end, it waits for the disk, then leaves its caller's folder, or ends.
    const folder = () => attempt(() => readlinkSync(`/proc/${worker}/cwd`));
    const rests = () => (folder() ?? '/') === '/';
    await kiln(['image', 'import', '--name', 'brought', archive]);
    await until(rests);
    const brought = (await images()).filter((id: string) => id !== IMAGE);
    t.is(brought.length, 1);
    await until(rests);
    await kiln(['image', 'rm', ...brought]);
    await until(rests);
  });
});

test.serial('short commands are traced as well', async (t) => {
  for (const args of [['ps'], ['kill', '--all']]) {
    const file = join(state.beside, `${args[0]}.json`);
    await kiln(args, { env: { KILN_TRACE: file } });
    t.regex(readFileSync(file, 'utf8'), /"name":"process"/);
  }
});

test.serial('kilnd itself runs from a snapshot, and enters kept sandboxes', async (t) => {
  const keep = [
    'run',
    '-r',
    IMAGE,
    '--keep',
    '--user',
    'root',
    '--',
    'sh',
    '-c',
    'echo 1 >/root/a',
  ];
  const { stderr } = await kiln(keep);
  const id = /kept as (\w+)/.exec(stderr)?.[1] ?? '';
  await kiln(['snapshot', id, 'short']);
  t.true(await until(() => workers().length > 0));
  const stopped = workers();
  // Who is stopped serves nobody.
  for (const pid of stopped) process.kill(pid, 'SIGSTOP');
  try {
    const ran = await kiln(['run', '--from', 'short', '--', 'cat', '/root/a']);
    t.is(ran.stdout, '1\n');
    const entered = await kiln(['exec', id, '--', 'sh', '-c', 'cat /root/a; echo err >&2']);
    t.deepEqual([entered.stdout, entered.stderr], ['1\n', 'err\n']);
    const failed = await t.throwsAsync(kiln(['exec', id, 'sh', '-c', 'exit 7']));
    t.like(failed, { code: 7 });
    const mistaken = await t.throwsAsync(kiln(['exec', id, '--', 'no-such-program']));
    t.regex(mistaken?.message ?? '', /E_COMMAND_NOT_FOUND/);
    t.deepEqual(workers(), stopped);
  } finally {
    for (const pid of stopped) process.kill(pid, 'SIGCONT');
  }
  // Those that come while another is in the sandbox enter by it.
  const all = Array.from({ length: 4 }, () => kiln(['exec', id, '--', 'cat', '/root/a']));
  for (const each of await Promise.all(all)) t.is(each.stdout, '1\n');
  await kiln(['kill', id]);
  await kiln(['snapshot', 'rm', 'short']);
});

test.serial('a worker keeps no descriptor open after its work', async (t) => {
  const results = ['--artifact', '/etc/passwd', '--resultdir', join(state.beside, 'open')];
  const work = async () => {
    await kiln(['run', '-r', IMAGE, ...results, '--copy-in', '/etc/passwd:/tmp/x', '--', 'true']);
    await kiln(['run', '-r', IMAGE, ...results, '--', 'true']);
  };
  const open = (pid: number | undefined) => readdirSync(`/proc/${pid}/fd`).length;
  await work();
  let before = 0;
  const worker = await workerOf(async (one) => {
    await work();
    // What libvirt and libuv open once and for all is open then.
    await sleep(1000 * PATIENCE);
    before = open(one);
    for (let i = 0; i < 4; i++) await work();
  });
  // One that is opened once and for all may have come: of eight runs, each would leave one.
  t.true(await until(() => open(worker) <= before + 1), `${before}, now ${open(worker)}`);
});

for (const [how, options] of [
  ['in a worker', '--copy-in in:/in'],
  ['in the daemon', '--bind in:/in:ro'],
] as const) {
  test.serial(`${how}: paths, umask and results are the caller’s`, async (t) => {
    const folder = join(state.beside, how.replaceAll(' ', '-'));
    await mkdir(folder);
    await writeFile(join(folder, 'in'), 'in');
    const ids = 'SUDO_UID=4711 SUDO_GID=4712';
    const script = `umask 027; cd '${folder}'; ${ids} exec "$0" run -r ${IMAGE} ${options} --artifact /tmp/out --resultdir res -- sh -c 'cp /in /tmp/out; echo said'`;
    const { stdout } = await run('bash', ['-c', script, KILN], { env: environment() });
    t.is(stdout, 'said\n');
    t.is(await readFile(join(folder, 'res/out'), 'utf8'), 'in');
    const result = JSON.parse(await readFile(join(folder, 'res/result.json'), 'utf8'));
    t.is(result.exitStatus, 0);
    t.like(result.artifacts, [{ path: 'out', size: 2, source: '/tmp/out' }]);
    const files = ['res', 'res/out', 'res/result.json'].map((file) => join(folder, file));
    const { stdout: modes } = await run('stat', ['-c', '%a %u:%g', ...files]);
    t.is(modes, '750 4711:4712\n644 4711:4712\n640 4711:4712\n');
  });
}

/** Starts a run of the daemon's own thread, and gives it while a worker hashes the holes of a large file. */
async function collecting(directory: string): Promise<{ client: ChildProcess; said: Buffer[] }> {
  const results = ['--artifact', '/tmp/huge', '--resultdir', directory];
  const command = ['sh', '-c', 'truncate -s 15G /tmp/huge'];
  const args = ['run', '-r', IMAGE, ...results, '--', ...command];
  const client = spawn(KILN, args, { env: environment(), stdio: ['ignore', 'ignore', 'pipe'] });
  const said: Buffer[] = [];
  client.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  const started = () =>
    existsSync(directory) && readdirSync(directory).some((name) => name.startsWith('.kiln-'));
  if (!(await until(started))) throw new Error(Buffer.concat(said).toString());
  return { client, said };
}

test.serial('^C ends a worker’s collection for the daemon, and it serves others', async (t) => {
  const interrupted = async (number: number): Promise<boolean> => {
    const directory = join(state.beside, `interrupted-${number}`);
    const { client, said } = await collecting(directory);
    const before = workers();
    // The run itself is the daemon's own.
    t.false(before.some((worker) => serves(worker, client)));
    client.kill('SIGINT');
    t.deepEqual(await once(client, 'close'), [125, null]);
    t.regex(Buffer.concat(said).toString(), /^kiln: interrupted \[E_INTERRUPTED\]\n/);
    t.deepEqual(readdirSync(directory).sort(), ['report.html', 'result.json']);
    const result = JSON.parse(await readFile(join(directory, 'result.json'), 'utf8'));
    t.like(result, { exit: { code: 0 }, failure: { code: 'E_INTERRUPTED' }, artifacts: [] });
    await kiln(['image', 'ls']);
    // Of two that wait, one is ended.
    t.true(await until(() => workers().length === 1));
    return before.includes(Number(workers()[0]));
  };
  // A daemon whose worker has not yet ended what was interrupted starts another one.
  let same = false;
  for (let number = 0; number < 5 && !same; number++) same = await interrupted(number);
  t.true(same);
});

test.serial('kill -9 of the client ends a worker’s collection for the daemon', async (t) => {
  const directory = join(state.beside, 'abandoned');
  const { client } = await collecting(directory);
  client.kill('SIGKILL');
  const isOver = () => readdirSync(directory).every((name) => !name.startsWith('.kiln-'));
  t.true(await until(() => isOver() && readdirSync(state.paths.sandboxes).length === 0));
});

test.serial('kill -9 of the collecting worker fails the run, which says so', async (t) => {
  const directory = join(state.beside, 'killed');
  const { client, said } = await collecting(directory);
  for (const worker of workers()) process.kill(worker, 'SIGKILL');
  t.deepEqual(await once(client, 'close'), [125, null]);
  t.regex(
    Buffer.concat(said).toString(),
    /^kiln: the process that was to write the results ended by SIGKILL \[E_WORKER\]\n {2}hint: /,
  );
  const result = JSON.parse(await readFile(join(directory, 'result.json'), 'utf8'));
  t.like(result, { exit: { code: 0 }, failure: { code: 'E_WORKER' }, artifacts: [] });
  // What it had begun to collect is gone, too.
  t.deepEqual(readdirSync(directory).sort(), ['report.html', 'result.json']);
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
});

test.serial('the artifacts of one run are in no other’s result', async (t) => {
  const at = (name: string) => join(state.beside, 'both', name);
  const first = ['--artifact', '/etc/passwd', '--resultdir', at('first')];
  await kiln(['run', '-r', IMAGE, ...first, '--', 'true']);
  t.true(await until(() => workers().length === 1));
  await kiln(['run', '-r', IMAGE, '--resultdir', at('second'), '--', 'true']);
  const artifacts = async (name: string) =>
    JSON.parse(await readFile(join(at(name), 'result.json'), 'utf8')).artifacts.length;
  t.is(await artifacts('first'), 1);
  t.is(await artifacts('second'), 0);
});

test.serial('warnings about artifacts reach the daemon’s caller', async (t) => {
  const results = join(state.beside, 'warned');
  const options = ['--artifact', '/tmp/o/**', '--resultdir', results];
  const script = 'mkdir /tmp/o; echo 1 > /tmp/o/a; ln -s /etc/passwd /tmp/o/l';
  const { stderr } = await kiln(['run', '-r', IMAGE, ...options, '--', 'sh', '-c', script]);
  t.regex(
    stderr,
    /^kiln: warning: "\/tmp\/o\/l" is a symbolic link to "\/etc\/passwd".* \[link-outside\]$/m,
  );
  const result = JSON.parse(await readFile(join(results, 'result.json'), 'utf8'));
  t.is(result.warnings[0].code, 'link-outside');
});

test.serial(
  'an answer that cannot be written is a failure, but an unwanted one is not',
  async (t) => {
    const script = (to: string) =>
      run('bash', ['-c', `set -o pipefail; "$0" image schema ${to}`, KILN], { env: environment() });
    const full = (await t.throwsAsync(script('> /dev/full'))) as Error & {
      code: number;
      stderr: string;
    };
    t.is(full.code, 125);
    t.regex(full.stderr, /standard output cannot be written: No space left on device/);
    t.is((await script('| head -1')).stdout, '{\n');
  },
);

test.serial('kill -9 of a worker fails its client with 125, and nobody else', async (t) => {
  const { client, pid, said } = await lasting(ownSeconds());
  const other = await lasting(ownSeconds());
  const [worker] = workers().filter((one) => existsSync(`/proc/${one}`) && serves(one, client));
  process.kill(Number(worker), 'SIGKILL');
  const [code] = (await once(client, 'close')) as [number];
  t.is(code, 125);
  t.regex(
    Buffer.concat(said).toString(),
    /^kiln: the process that worked for this call ended by SIGKILL, and its sandboxes with it \[E_WORKER\]\n {2}hint: /,
  );
  t.true(await waitForDeath(pid, 10_000 * PATIENCE));
  t.true(existsSync(`/proc/${other.pid}`));
  other.client.kill('SIGTERM');
  await once(other.client, 'exit');
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
  t.is((await kiln(['ps'])).stdout.split('\n').length, 2);
});

test.serial(
  'a client that is slow to confirm the output still hears why its worker died',
  async (t) => {
    // It says so after the call and the start; kilnd has closed the connection by then.
    const slow = ['-e', 'trace=sendmsg', '-e', 'inject=sendmsg:delay_enter=1500000:when=3+'];
    const { client, said } = await lasting(ownSeconds(), [
      'strace',
      '-qq',
      '-o',
      '/dev/null',
      ...slow,
    ]);
    const [worker] = workers().filter((one) => existsSync(`/proc/${one}`) && serves(one, client));
    process.kill(Number(worker), 'SIGKILL');
    t.deepEqual(await once(client, 'close'), [125, null]);
    t.regex(
      Buffer.concat(said).toString(),
      /^kiln: the process that worked for this call ended by/,
    );
    t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
  },
);

/** Whether a worker has the client's stderr open, which nobody else has. */
function serves(worker: number, client: ChildProcess): boolean {
  const pipe = readlinkSync(`/proc/${client.pid}/fd/2`);
  return readdirSync(`/proc/${worker}/fd`).some((fd) => {
    try {
      return readlinkSync(`/proc/${worker}/fd/${fd}`) === pipe;
    } catch {
      return false;
    }
  });
}

test.serial('if a worker dies before it takes its client, another one serves it', async (t) => {
  await kiln(['image', 'ls']);
  // One that the daemon has just ended counts until it is gone, and another may be on its way.
  const spare = await eventually(async () => {
    const [only, ...others] = workers();
    await sleep(300);
    return others.length === 0 && workers().length === 1 && workers()[0] === only && only;
  });
  // A client hears of its end before its worker waits for the next one.
  t.true(await until(() => readlinkSync(`/proc/${spare}/cwd`) === '/'));
  process.kill(Number(spare), 'SIGSTOP');
  const listed = kiln(['image', 'ls', '--json']);
  // It has the client, and does nothing for it.
  t.false(await Promise.race([listed.then(() => true), sleep(1000, false)]), 'it was served');
  t.deepEqual(workers(), [Number(spare)]);
  process.kill(Number(spare), 'SIGKILL');
  const { stdout } = await listed;
  t.is(JSON.parse(stdout)[0].id, IMAGE);
  t.false(workers().includes(Number(spare)), 'it lives');
});

test.serial('kill -9 of the client ends the job of its worker', async (t) => {
  const { client, pid } = await lasting(ownSeconds());
  client.kill('SIGKILL');
  t.true(await waitForDeath(pid, 10_000 * PATIENCE));
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
  t.is((await kiln(['image', 'ls', '--json'])).stderr, '');
});

test.serial('kill -9 of the daemon ends its workers and their sandboxes', async (t) => {
  const { client, pid } = await lasting(ownSeconds());
  const all = workers();
  t.true(all.length > 0);
  process.kill(Number(daemonPid(state.paths.root)), 'SIGKILL');
  const [code] = (await once(client, 'exit')) as [number];
  t.is(code, 125);
  t.true(await waitForDeath(pid, 10_000 * PATIENCE));
  for (const worker of all) t.true(await waitForDeath(worker, 10_000 * PATIENCE));
  t.true(await until(() => readdirSync(state.paths.sandboxes).length === 0));
});

test.serial('a daemon of another build stays until its workers are done', async (t) => {
  const { client } = await lasting(`3.${ownSeconds()}`);
  const exit = once(client, 'exit');
  const old = Number(daemonPid(state.paths.root));
  const { connect } = await import('node:net');
  const socket = connect(join(state.paths.root, 'io.kiln'));
  socket.write('{"method":"io.kiln.CommandLine","upgrade":true,"parameters":{"build":"other"}}\0');
  await once(socket, 'data');
  socket.destroy();
  await kiln(['image', 'ls']);
  t.not(daemonPid(state.paths.root), old);
  t.deepEqual(await exit, [0, null]);
  t.true(await waitForDeath(old, 20_000 * PATIENCE));
});
