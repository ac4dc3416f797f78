/** Jobs that go on without their caller: `--detach`, `attach`, `wait`, `logs`, `results`. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import anyTest, { type TestFn } from 'ava';
import { Follower } from '../../src/detached/follow.ts';
import { readJobLog } from '../../src/detached/log.ts';
import { jobFiles, sandboxMeant, writeJob } from '../../src/detached/record.ts';
import { acquireLock } from '../../src/host/files/flock.ts';
import { waitForDeath } from '../../src/host/process/process.ts';
import type { ListedSandbox } from '../../src/sandbox/domain/sandbox-record.ts';
import { IMAGE, KILN, PATIENCE } from '../support/busybox-state.ts';
import { daemonPid } from '../support/daemon.ts';
import { endingListener } from '../support/ending-listener.ts';
import { eventually, until } from '../support/eventually.ts';
import { ownSeconds, processesCalled } from '../support/processes.ts';
import { OTHER, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;
const DETACHED = ['run', '-r', 'busybox', '--detach'];

test.before(async (t) => {
  t.context = await userState('  limits:\n    sandboxes: 1\n');
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

/** What a command of root's says; it must succeed. */
async function says(state: UserState, args: readonly string[]): Promise<string> {
  const { stdout, stderr, exitCode } = await state.kiln(args);
  if (exitCode !== 0) throw new Error(`kiln ${args.join(' ')}: ${exitCode}: ${stderr}`);
  return String(stdout);
}

/** What a job waits for, so that it ends when a test has looked at it, however long that takes. */
interface Gate {
  /** For `kiln run`. */
  readonly options: readonly string[];
  /** Waits for it, in the job. */
  readonly wait: string;
  open(): void;
}

/** Makes one: a folder, which is shown to the job. */
function gate(path: string, owner = { uid: 0, gid: 0 }): Gate {
  mkdirSync(path);
  chownSync(path, owner.uid, owner.gid);
  return {
    options: ['--bind', `${path}:/gate:ro`],
    wait: 'until test -e /gate/open; do sleep 0.1; done',
    open: () => writeFileSync(join(path, 'open'), ''),
  };
}

async function jobs(state: UserState): Promise<{ id: string; name?: string; state: string }[]> {
  return JSON.parse(await says(state, ['ps', '--jobs', '--json'])) as never;
}

test.serial('a job goes on without its caller, and reports how it ended', async (t) => {
  const state = t.context;
  const end = gate(join(state.beside, 'end'));
  const command = ['sh', '-c', `echo out; echo err >&2; ${end.wait}; echo late; exit 7`];
  const id = await says(state, [...DETACHED, ...end.options, '--', ...command]);
  t.regex(id, /^[0-9a-f]{10}$/);
  t.is((await jobs(state)).find((job) => job.id === id)?.state, 'running');
  t.regex(await says(state, ['ps']), new RegExp(`${id} .*running .*run -r busybox`));
  // Its sandbox is called after it: there is one id.
  t.regex(await says(state, ['ps']), new RegExp(`^${id} +running .*kiln-[0-9a-f]+-`, 'm'));
  const waiting = state.kiln(['wait', id]);
  end.open();
  const waited = await waiting;
  t.is(waited.exitCode, 7);
  t.is(waited.stdout, '');
  t.regex(await says(state, ['ps', '-a']), new RegExp(`${id} .*ended 7`));
  t.notRegex(await says(state, ['ps']), new RegExp(id));
  for (const command of ['kill', 'exec']) {
    const { exitCode, stderr } = await state.kiln([
      command,
      id,
      ...(command === 'exec' ? ['true'] : []),
    ]);
    t.is(exitCode, 125);
    t.regex(String(stderr), new RegExp(`job ${id} ended with status 7 .*\n.*kiln logs ${id}`));
  }
  t.is((await state.kiln(['wait', id.slice(0, 6)])).exitCode, 7, 'later as well');
  const logs = await state.kiln(['logs', id]);
  t.deepEqual([logs.stdout, logs.stderr], ['out\nlate', 'err']);
});

test.serial(
  'a command that cannot start is reported to the caller and leaves no job',
  async (t) => {
    const state = t.context;
    const before = (await jobs(state)).length;
    const missing = await state.kiln([...DETACHED, '--', 'nothing-of-this-name']);
    t.is(missing.exitCode, 127);
    t.regex(String(missing.stderr), /nothing-of-this-name/);
    t.is(missing.stdout, '');
    t.is((await jobs(state)).length, before);
    const none = await state.kiln(['wait', 'nobody']);
    t.is(none.exitCode, 125);
    t.regex(String(none.stderr), /there is no job nobody \[/);
  },
);

test.serial('a name belongs to one job at a time, and results wait to be fetched', async (t) => {
  const state = t.context;
  const end = gate(join(state.beside, 'nightly'));
  const make = 'mkdir -p o/d; echo made > o/d/f; touch o/e; ln -s /etc/passwd o/l';
  const options = [...end.options, '--name', 'nightly', '--artifact', 'o', '--workdir', '/tmp'];
  const job = [...DETACHED, ...options, '--'];
  const id = await says(state, [...job, 'sh', '-c', `${make}; ${end.wait}`]);
  const again = await state.kiln([...job, 'true']);
  t.is(again.exitCode, 125);
  t.regex(String(again.stderr), /you already have a job named nightly: \w{10}/);
  const early = await state.kiln(['results', 'nightly', join(state.beside, 'early')]);
  t.regex(String(early.stderr), /the job nightly has not ended/);
  end.open();
  t.is((await state.kiln(['wait', 'nightly'])).exitCode, 0);
  const out = join(state.beside, 'out');
  // Node's own recursive mkdir would go on for ever.
  const nowhere = await state.kiln(['results', 'nightly', '/proc/x']);
  t.regex(String(nowhere.stderr), /the result folder \/proc\/x cannot be used/);
  await says(state, ['results', 'nightly', out]);
  t.is(readFileSync(join(out, 'o/d/f'), 'utf8'), 'made\n');
  const result = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8')) as { status: string };
  t.truthy(result);
  // As a power cut leaves them: one is empty, another one gone.
  const kept = join(state.paths.root, 'detached', id, 'results/o');
  for (const spoil of [() => truncateSync(join(kept, 'd/f')), () => rmSync(join(kept, 'e'))]) {
    spoil();
    const spoilt = await state.kiln(['results', 'nightly', out]);
    t.is(spoilt.exitCode, 125);
    t.regex(String(spoilt.stderr), /results of nightly are not whole: o\/(?:d\/f|e) is not what/);
    writeFileSync(join(kept, 'd/f'), 'made\n');
  }
  // Free again: the new one has the name.
  const next = await says(state, [...DETACHED, '--name', 'nightly', '--', 'true']);
  t.not(next, id);
  t.is((await state.kiln(['wait', 'nightly'])).exitCode, 0);
});

test.serial('a kept sandbox of a job can be entered and destroyed by id and by name', async (t) => {
  const keeps = [...DETACHED, '--keep', '--name', 'keeper', '--', 'sh', '-c', 'echo left > /tmp/x'];
  const id = await says(t.context, keeps);
  await says(t.context, ['wait', id]);
  for (const word of [id, 'keeper', id.slice(0, 6)]) {
    t.is(await says(t.context, ['exec', word, '--', 'cat', '/tmp/x']), 'left');
  }
  await says(t.context, ['kill', 'keeper']);
  t.not((await t.context.kiln(['exec', id, '--', 'true'])).exitCode, 0);
});

test.serial('a prefix that several jobs’ ids share ends none of them', async (t) => {
  const { paths } = t.context;
  const command = ['run'];
  const record = (id: string) => ({ id, command, created: Date.now(), began: 1, tty: false });
  const records = ['fffff00001', 'fffff00002'].map(record);
  const make = async (one: (typeof records)[number]) => {
    const folder = join(paths.root, 'detached', one.id);
    mkdirSync(folder, { recursive: true });
    const lock = await acquireLock(join(folder, 'lock'));
    writeJob(folder, one);
    return { folder, lock };
  };
  const made = await Promise.all(records.map(make));
  const killed = await t.context.kiln(['kill', 'fffff']);
  t.is(killed.exitCode, 125);
  t.regex(String(killed.stderr), /^kiln: job fffff: 2 ids begin so/);
  t.is(await says(t.context, ['kill', 'fffff00002']), 'fffff00002');
  for (const { folder, lock } of made) {
    await lock.release();
    rmSync(folder, { recursive: true });
  }
  const ended = records.map((one, index) => {
    return {
      id: one.id,
      state: 'ended',
      folder: '',
      record: { ...one, sandbox: `a${index}` },
    } as const;
  });
  const sandboxes = ['a0', 'a1'].map((id) => ({ id, state: 'kept', record: {} }) as ListedSandbox);
  t.throws(() => sandboxMeant(ended, 'fffff', undefined, sandboxes), { code: 'E_NO_JOB' });
  t.is(sandboxMeant(ended, 'fffff', undefined, sandboxes.slice(1)).id, 'a1');
});

test.serial('a log can be read while its oldest file is removed', (t) => {
  const folder = join(t.context.beside, 'log');
  mkdirSync(folder);
  // What is listed, and gone when it is opened.
  symlinkSync('nowhere', join(folder, 'output-0'));
  const late = Buffer.from('late');
  const header = Buffer.of(1, late.length, 0, 0, 0);
  writeFileSync(join(folder, 'output-100'), Buffer.concat([header, late]));
  t.deepEqual([...readJobLog(folder)], [{ output: 1, bytes: late }]);
});

test.serial('a follower sees all output, and ends with its job; wait takes several', async (t) => {
  const state = t.context;
  const end = gate(join(state.beside, 'followed'));
  const count = 'i=0; until test -e /gate/open; do echo $((i=i+1)); sleep 0.1; done; echo last';
  const [one, two] = [
    await says(state, [...DETACHED, ...end.options, '--', 'sh', '-c', count]),
    await says(state, [
      ...[...DETACHED, ...end.options, '--name', 'two'],
      ...['--', 'sh', '-c', `${end.wait}; exit 4`],
    ]),
  ];
  const follow = state.kiln(['logs', '-f', one]);
  const attached = state.kiln(['attach', one]);
  const waiting = state.kiln(['wait', one, two]);
  await Promise.all([follow, attached].map(({ stdout }) => once(stdout!, 'data')));
  end.open();
  const both = await waiting;
  t.is(both.exitCode, 4);
  t.deepEqual(String(both.stdout).split('\n').sort(), [`${one} 0`, 'two 4'].sort());
  const lines = String((await follow).stdout).split('\n');
  t.deepEqual(lines, [...lines.slice(1).map((_, i) => `${i + 1}`), 'last']);
  const { stdout, exitCode } = await attached;
  t.is(exitCode, 0);
  t.regex(String(stdout), /\nlast$/, 'what comes from now on');
});

test.serial(
  'wait counts a job once, however often it is named, and takes so many only',
  async (t) => {
    const state = t.context;
    const id = await says(state, [...DETACHED, '--', 'sh', '-c', 'exit 3']);
    const twice = await state.kiln(['wait', id, id]);
    t.is(twice.exitCode, 3);
    t.is(String(twice.stdout), '', 'of one job nothing is said');
    const many = await state.kiln(['wait', ...Array.from({ length: 65 }, () => id)]);
    t.is(many.exitCode, 125);
    t.regex(String(many.stderr), /65 jobs are more than 64/);
  },
);

const SECONDS = ownSeconds();
const SLEEPER = `sleep ${SECONDS} & while sleep 0.2; do echo up; done`;

test.serial('^C leaves a job running, and `kill` ends it', async (t) => {
  const state = t.context;
  const id = await says(state, [...DETACHED, '--name', 'long', '--', 'sh', '-c', SLEEPER]);
  const attached = spawn(KILN, ['attach', 'long'], { env: state.env, stdio: 'pipe' });
  const said: Buffer[] = [];
  attached.stderr.on('data', (chunk: Buffer) => said.push(chunk));
  await once(attached.stdout, 'data');
  attached.kill('SIGINT');
  const [code] = (await once(attached, 'close')) as [number];
  t.is(code, 0);
  t.regex(Buffer.concat(said).toString(), /the job long goes on/);
  t.true(await until(() => processesCalled('sleep', SECONDS).length === 1));
  t.is(await says(state, ['kill', 'long']), id);
  t.true(await until(() => processesCalled('sleep', SECONDS).length === 0));
  t.true([137, 143].includes(Number((await state.kiln(['wait', id])).exitCode)));
});

test.serial('a job with a terminal gets what is typed', async (t) => {
  const state = t.context;
  const script = 'stty size; read -r line; echo "got $line"; exit 5';
  const id = await says(state, [...DETACHED, '--tty', '--', 'sh', '-c', script]);
  await sleep(500);
  const attached = await state.kiln(['attach', id], { stdin: 'pipe', input: 'typed\n' });
  t.is(attached.exitCode, 5, String(attached.stderr));
  t.regex(String(attached.stdout), /got typed/);
  t.regex(await says(state, ['logs', id]), /24 80\r?\n/);
});

test.serial('a recipe goes on without its caller', async (t) => {
  const state = t.context;
  const recipe = join(state.beside, 'it.yaml');
  const steps = '["echo one", "sleep 2; echo made > /tmp/f; exit 6"]';
  writeFileSync(recipe, `image: ${IMAGE.slice(0, 12)}\nsteps: ${steps}\nartifacts: [/tmp/f]\n`);
  const id = await says(state, ['build', '--detach', recipe]);
  t.is((await state.kiln(['wait', id])).exitCode, 6);
  t.regex(await says(state, ['logs', id]), /one/);
  const out = join(state.beside, 'recipe');
  await says(state, ['results', id, out]);
  t.true(existsSync(join(out, 'result.json')));
});

test.serial('the kept output of a job is limited', async (t) => {
  const state = t.context;
  const flood = 'yes 0123456789abcdef | head -n 2000000; echo the end';
  const id = await says(state, [...DETACHED, '--', 'sh', '-c', flood]);
  t.is((await state.kiln(['wait', id])).exitCode, 0);
  const folder = join(state.paths.root, 'detached', id);
  const bytes = readdirSync(folder)
    .filter((name) => name.startsWith('output-'))
    .reduce((sum, name) => sum + statSync(join(folder, name)).size, 0);
  t.true(bytes > 8 << 20 && bytes <= 16 << 20, `${bytes}`);
  const { stdout } = await state.kiln(['logs', id], { maxBuffer: 1e8 });
  t.true(String(stdout).endsWith('the end'));
  t.true(String(stdout).length > 7 << 20);
});

test.serial('users have jobs of their own, within their share', async (t) => {
  const state = t.context;
  const roots = await says(state, [...DETACHED, '--', 'sleep', '1000']);
  const end = gate(join(state.home, 'end'), USER);
  const job = [...DETACHED, ...end.options, '--name', 'mine', '--artifact', '/tmp/f', '--'];
  const begun = await state.as(USER, [...job, 'sh', '-c', `id -u; echo x > /tmp/f; ${end.wait}`]);
  t.is(begun.exitCode, 0, String(begun.stderr));
  const id = String(begun.stdout);
  const seen = String((await state.as(USER, ['ps', '--jobs'])).stdout);
  t.true(seen.includes(id));
  t.false(seen.includes(roots));
  for (const word of [id, 'mine']) {
    for (const verb of ['wait', 'logs', 'attach', 'results', 'kill']) {
      const other = await state.as(OTHER, [verb, word]);
      t.is(other.exitCode, 125, verb);
      t.regex(String(other.stderr), /no (job|sandbox) /, verb);
    }
  }
  // A job is one of the user's sandboxes: the next one waits for its end.
  const running = state.as(USER, ['run', '-r', 'busybox', '--', 'true']);
  running.stderr?.once('data', end.open);
  const next = await running;
  t.is(next.exitCode, 0);
  t.regex(String(next.stderr), /waiting until one of your 1 sandbox ends/);
  t.is((await state.as(USER, ['wait', 'mine'])).exitCode, 0);
  t.is(String((await state.as(USER, ['logs', 'mine'])).stdout), '1000');
  const fetched = await state.as(USER, ['results', 'mine', 'fetched']);
  t.is(fetched.exitCode, 0, String(fetched.stderr));
  const file = join(state.home, 'fetched/tmp/f');
  t.is(readFileSync(existsSync(file) ? file : join(state.home, 'fetched/f'), 'utf8'), 'x\n');
  t.is(statSync(join(state.home, 'fetched/result.json')).uid, USER.uid);
  // Not where the user may not write.
  const elsewhere = await state.as(USER, ['results', 'mine', state.beside]);
  t.not(elsewhere.exitCode, 0);
  t.false(existsSync(join(state.beside, 'result.json')));
  await says(state, ['kill', roots]);
});

test.serial(
  'a name that root gives means root’s own job, even if users have jobs of that name',
  async (t) => {
    const state = t.context;
    const script = (text: string) => [...DETACHED, '--name', 'nightly', '--', 'sh', '-c', text];
    const roots = await says(state, script('echo roots'));
    await says(state, ['wait', roots]);
    const users = await state.as(USER, script('echo users; exit 9'));
    t.is(users.exitCode, 0, String(users.stderr));
    await state.as(USER, ['wait', 'nightly']);
    t.is(await says(state, ['logs', 'nightly']), 'roots');
    t.is((await state.kiln(['wait', 'nightly'])).exitCode, 0);
    t.is(await says(state, ['logs', String(users.stdout)]), 'users');
    t.is(String((await state.as(USER, ['logs', 'nightly'])).stdout), 'users');
  },
);

test.serial('a job outlives the replacement of its daemon, but not its death', async (t) => {
  const state = t.context;
  const old = daemonPid(state.paths.root) ?? 0;
  const end = gate(join(state.beside, 'moved'));
  const script = `echo begun; ${end.wait}; echo done; exit 3`;
  const options = [...end.options, '--name', 'moved'];
  const id = await says(state, [...DETACHED, ...options, '--', 'sh', '-c', script]);
  const socket = connect(join(state.paths.root, 'io.kiln'));
  socket.write('{"method":"io.kiln.CommandLine","upgrade":true,"parameters":{"build":"other"}}\0');
  await once(socket, 'data');
  socket.destroy();
  const waiting = state.kiln(['wait', 'moved']);
  t.true(await until(() => ![undefined, old].includes(daemonPid(state.paths.root))));
  end.open();
  t.is((await waiting).exitCode, 3);
  t.not(daemonPid(state.paths.root), old);
  t.is(await says(state, ['logs', id]), 'begun\ndone');
  t.true(await waitForDeath(old, 10_000 * PATIENCE));
  const lost = await says(state, [
    ...DETACHED,
    '--',
    'sh',
    '-c',
    `echo seen; exec sleep ${SECONDS}`,
  ]);
  t.true(await until(() => processesCalled('sleep', SECONDS).length === 1));
  await eventually(async () => (await says(state, ['logs', lost])) === 'seen');
  process.kill(daemonPid(state.paths.root)!, 'SIGKILL');
  const waited = await state.kiln(['wait', lost]);
  t.is(waited.exitCode, 125);
  t.regex(String(waited.stderr), /the job .* is lost/);
  t.true(await until(() => processesCalled('sleep', SECONDS).length === 0));
  t.is((await jobs(state)).find((job) => job.id === lost)?.state, 'lost');
  t.is(await says(state, ['logs', lost]), 'seen');
  const results = await state.kiln(['results', lost, join(state.beside, 'lost')]);
  t.is(results.exitCode, 125);
  t.regex(String(results.stderr), /the results of .* are not whole/);
});

test.serial('a job whose process ends during a connection has ended', async (t) => {
  const { paths } = t.context;
  const kill = await endingListener(jobFiles.socket(paths, 'ending'));
  const opened = Follower.open(paths, 'ending');
  kill();
  t.is(await opened, undefined);
});

test.serial('gc removes ended jobs, and for a user only their own', async (t) => {
  const state = t.context;
  const begun = await state.as(USER, [...DETACHED, '--', 'true']);
  const id = String(begun.stdout);
  await state.as(USER, ['wait', id]);
  const others = (await jobs(state)).filter((job) => job.id !== id);
  t.true(others.length > 3);
  await state.as(OTHER, ['gc']);
  t.true((await jobs(state)).some((job) => job.id === id));
  const collected = await state.as(USER, ['gc']);
  t.regex(String(collected.stdout), /[1-3] ended jobs/, String(collected.stderr));
  t.false((await jobs(state)).some((job) => job.id === id));
  // A record that cannot be read is nobody's job any more.
  const damaged = await says(state, [...DETACHED, '--name', 'damaged', '--', 'true']);
  await says(state, ['wait', damaged]);
  writeFileSync(join(state.paths.root, 'detached', damaged, 'job.json'), '{"id":');
  const { stderr } = await state.kiln(['logs', 'damaged']);
  t.regex(String(stderr), /job\.json is damaged: it is cut.*nobody finds this job/);
  t.regex(String(stderr), /no job damaged/);
  const mine = (await jobs(state)).length;
  await says(state, ['gc']);
  t.false(existsSync(join(state.paths.root, 'detached', damaged)));
  t.is((await jobs(state)).length, mine, 'those of the last week stay');
  // Whoever made it was killed before it had a lock.
  mkdirSync(join(state.paths.root, 'detached/0123456789'));
  await says(state, ['gc', '--max-age', '1s']);
  t.deepEqual(await jobs(state), []);
  t.deepEqual(readdirSync(join(state.paths.root, 'detached')), []);
});
