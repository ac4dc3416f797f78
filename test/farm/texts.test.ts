/** What HTCondor and its machines are given to read and run, without a pool. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { knownChains, rememberChain } from '../../src/farm/chain.ts';
import {
  dagText,
  hookScript,
  runScript,
  type SubmitPlan,
  submitText,
  whatIsMissing,
  whyStepsWait,
} from '../../src/farm/dag.ts';
import { requirePool, type Slot } from '../../src/farm/pool.ts';
import { stepStatus } from '../../src/farm/step.ts';
import { OPTIONAL_LAYERS } from '../../src/sandbox/policy/layers.ts';
import { KILN } from '../support/busybox-state.ts';

const folder = mkdtempSync(join(tmpdir(), 'kiln-farm-'));
test.after.always(() => rmSync(folder, { recursive: true }));

test('a chain that is submitted again stays known all the time', async (t) => {
  const env = { XDG_STATE_HOME: join(folder, 'known') };
  await rememberChain(env, 'abcd', '/first');
  const link = join(env.XDG_STATE_HOME, 'kiln/farm/abcd');
  const script = 'while test ! -e stop; do test -h "$0" || echo gone; done';
  const look = execa('sh', ['-c', script, link], { cwd: folder });
  // The shell's own test(1) looks some hundred thousand times a second.
  for (const end = Date.now() + 2000; Date.now() < end; await sleep(1)) {
    for (let times = 0; times < 50; times++) await rememberChain(env, 'abcd', '/again');
  }
  writeFileSync(join(folder, 'stop'), '');
  t.is((await look).stdout, '');
  t.deepEqual(knownChains(env), [{ id: 'abcd', directory: '/again' }]);
});

/** Commands of a DAG input file, as HTCondor's manual has them: “DAG File Basics”, “DAG Script Basics”. */
const DAG_COMMANDS = [
  /^#/,
  /^CONFIG [\w./-]+$/,
  /^JOBSTATE_LOG [\w./-]+$/,
  /^JOB (?<node>[A-Za-z][\w-]*) [\w./-]+$/,
  /^SCRIPT (?:PRE|POST) (?<of>[A-Za-z][\w-]*) \.?[\w./-]+(?: [\w$./-]+)*$/,
  /^RETRY (?<of>[A-Za-z][\w-]*) \d+ UNLESS-EXIT \d+$/,
  /^PARENT (?<of>[\w-]+(?: [\w-]+)*) CHILD [\w-]+$/,
];

test('a DAG uses only DAGMan’s grammar, and every node is a job', (t) => {
  const nodes = [
    { node: 's1', member: 'liba-1-1', parents: [] },
    { node: 's2', member: 'lib+b-1:2~rc1-1', parents: ['s1'] },
    { node: 's3', member: 'app-1-1', parents: ['s1', 's2'] },
  ];
  const text = dagText('00c0ffee', nodes);
  const jobs = new Set<string>();
  for (const line of text.split('\n').filter(Boolean)) {
    const match = DAG_COMMANDS.map((command) => command.exec(line)).find((found) => found !== null);
    t.truthy(match, line);
    if (match?.groups?.node !== undefined) jobs.add(match.groups.node);
    for (const name of match?.groups?.of?.split(' ') ?? []) t.true(jobs.has(name), line);
  }
  t.deepEqual([...jobs], ['s1', 's2', 's3']);
  t.regex(text, /^PARENT s1 s2 CHILD s3$/m);
  // 65 is not tried again.
  t.regex(text, /^RETRY s1 \d+ UNLESS-EXIT 65$/m);
});

const PLAN: SubmitPlan = {
  chain: '00c0ffee',
  node: 's7',
  member: 'a"b\\c-1-1',
  version: '0.1.0',
  allowMissing: ['io-limit'],
  image: 'ab'.repeat(32),
  packages: ['cd'.repeat(32), 'ef'.repeat(32)],
  avoid: ['node-3'],
  options: { memory: 3 * 2 ** 30 + 1, cpus: 1.5 },
};

/** Commands of condor_submit(1) that are used here. */
const SUBMIT_COMMANDS = [
  ...[
    'universe',
    'executable',
    'arguments',
    'initialdir',
    'should_transfer_files',
    'output',
    'log',
  ],
  ...['when_to_transfer_output', 'transfer_input_files', 'transfer_output_files', 'stream_output'],
  ...['notification', 'batch_name', 'request_cpus', 'request_memory', 'request_disk', 'rank'],
  ...['requirements', 'periodic_remove', 'My.KilnChain', 'My.KilnMember'],
];

test('a submit file has only condor_submit’s commands, and ends with queue', (t) => {
  const lines = submitText(PLAN).split('\n').filter(Boolean);
  t.is(lines.at(-1), 'queue');
  const values = new Map(
    lines.slice(0, -1).map((line) => line.split(/ = (.*)/, 2) as [string, string]),
  );
  t.deepEqual([...values.keys()].sort(), [...SUBMIT_COMMANDS].sort());
  t.is(values.get('request_memory'), '3073M');
  t.is(values.get('request_cpus'), '2');
  t.is(values.get('My.KilnMember'), '"a\\"b\\\\c-1-1"');
  const requirements = values.get('requirements') ?? '';
  t.regex(requirements, /TARGET\.KilnVersion =\?= "0\.1\.0"/);
  t.regex(requirements, /stringListMember\("landlock", TARGET\.KilnLayers \?: ""\)/);
  t.notRegex(requirements, /io-limit/);
  const rank = values.get('rank') ?? '';
  for (const digest of ['abababababab', 'cdcdcdcdcdcd', 'efefefefefef'])
    t.true(rank.includes(`"${digest}"`), digest);
  t.regex(rank, /TARGET\.Machine, "node-3"\), -1000000, 0\)/);
  t.regex(rank, /strcat\("@", TARGET\.Machine, "\$"\), MY\.LastRemoteHost/);
  for (const expression of [requirements, rank]) {
    const plain = expression.replace(/"(?:[^"\\]|\\.)*"/g, '');
    t.false(plain.includes('"'), expression);
    t.is(plain.split('(').length, plain.split(')').length, expression);
  }
});

test('steps that no machine can take are reported with what is missing', (t) => {
  const slot: Slot = {
    ...{ Name: 'slot1@a', Machine: 'a', State: 'Unclaimed', Activity: 'Idle' },
    ...{ Cpus: 0, Memory: 0, TotalSlotCpus: 2, TotalSlotMemory: 4096 },
    ...{ KilnVersion: PLAN.version, KilnLayers: OPTIONAL_LAYERS.join() },
  };
  t.is(whatIsMissing([slot], PLAN), undefined);
  t.is(whatIsMissing([], PLAN), 'the pool has no machines');
  const { KilnVersion: _, ...plain } = slot;
  t.is(whatIsMissing([plain], PLAN), 'no machine of the pool has kiln 0.1.0');
  const bare = { ...slot, KilnLayers: 'io-limit' };
  t.regex(whatIsMissing([bare], PLAN) ?? '', /^no machine of the pool has all of .*landlock/);
  const small = { ...slot, TotalSlotMemory: 3072 };
  t.is(
    whatIsMissing([small, bare], PLAN),
    'no machine of the pool has 3073 MB and 2 processors for one step',
  );
});

/** A folder with the script of workers, and a kiln that does what `body` says. */
function workerFolder(name: string, body: string): string {
  const place = join(folder, name);
  mkdirSync(place);
  writeFileSync(join(place, 'run-step'), runScript());
  writeFileSync(join(place, 'kiln'), `#!/bin/sh\n${body}\n`);
  for (const file of ['run-step', 'kiln']) chmodSync(join(place, file), 0o755);
  return place;
}

test('a step on a worker ends with 0, 65, or 75 for anything else', async (t) => {
  for (const [status, expected] of [
    ['exit 0', 0],
    ['exit 65', 65],
    ['exit 1', 75],
    ['exit 125', 75],
    ['exit 143', 75],
    ['kill -9 $$', 75],
  ] as const) {
    const place = workerFolder(`ends-${status.replace(/\W/g, '')}`, status);
    const options = { cwd: place, env: { KILN: join(place, 'kiln') }, reject: false } as const;
    const ended = await execa(join(place, 'run-step'), ['node-1'], options);
    t.is(ended.exitCode, expected, status);
    t.is(ended.stdout.split('\n')[0], 'kiln: worker node-1');
  }
  const missing = workerFolder('missing', 'exit 0');
  const none = { cwd: missing, env: { KILN: '/nonexistent/kiln' }, reject: false } as const;
  t.is((await execa(join(missing, 'run-step'), ['node-1'], none)).exitCode, 75);
});

test('a step that HTCondor ends stops its kiln, and waits for that', async (t) => {
  const place = workerFolder(
    'ended',
    'trap "echo over >ended; exit 0" TERM; echo $$ >begun; while :; do sleep 0.1; done',
  );
  const running = execa(join(place, 'run-step'), ['node-1'], {
    cwd: place,
    env: { KILN: join(place, 'kiln') },
    reject: false,
  });
  while (!existsSync(join(place, 'begun'))) await sleep(20);
  running.kill('SIGTERM');
  await running;
  t.is(readFileSync(join(place, 'ended'), 'utf8'), 'over\n');
});

test('a step that is ended while its script starts kiln leaves no kiln', async (t) => {
  const place = workerFolder(
    'early',
    'echo $$ >begun; trap "exit 0" TERM; kill -TERM "$PPID"; while :; do sleep 0.1; done',
  );
  // Kiln runs long before a trap that the script would set after it.
  const slowly = 'inject=clone,fork,vfork:delay_exit=200000';
  await execa(
    'strace',
    ['-o', '/dev/null', '-e', 'clone,fork,vfork', '-e', slowly, join(place, 'run-step'), 'node-1'],
    { cwd: place, env: { KILN: join(place, 'kiln') }, reject: false, stdio: 'ignore' },
  );
  const pid = Number(readFileSync(join(place, 'begun'), 'utf8'));
  const goesOn = existsSync(`/proc/${pid}`);
  if (goesOn) process.kill(pid, 'SIGKILL');
  t.false(goesOn);
});

test('DAGMan’s scripts pass on any folder and environment unchanged', async (t) => {
  const place = join(folder, `it's a $(touch evil) "folder"`);
  mkdirSync(place);
  const program = join(place, 'kiln');
  writeFileSync(program, '#!/bin/sh\nprintf "%s\\n" "$KILN_STATE" "$@"\n');
  writeFileSync(join(place, 'hook'), hookScript(program, place, { KILN_STATE: `/a 'b'` }));
  for (const file of ['kiln', 'hook']) chmodSync(join(place, file), 0o755);
  const { stdout } = await execa(join(place, 'hook'), ['publish', 's1', '-9'], { cwd: place });
  t.deepEqual(stdout.split('\n'), [`/a 'b'`, 'farm', 'publish', place, 's1', '-9']);
  t.false(existsSync(join(place, 'evil')));
});

test('the exit status of a build says whose fault it was', (t) => {
  t.deepEqual([0, 1, 3, 4, 5, 124, 125, 130].map(stepStatus), [0, 65, 65, 65, 65, 65, 75, 75]);
});

test('root cannot submit a chain', async (t) => {
  for (const argv of [
    ['farm', 'check'],
    [
      'build',
      '--chain',
      '--farm',
      '-r',
      'debian-build',
      '--resultdir',
      join(folder, 'out'),
      '/none.src.rpm',
    ],
  ]) {
    const refused = await execa(KILN, argv, {
      reject: false,
      env: { KILN_STATE: join(folder, 'state') },
    });
    t.is(refused.exitCode, 125);
    t.regex(refused.stderr, /^kiln: HTCondor refuses jobs from root/);
    t.false(existsSync(join(folder, 'state')));
  }
});

test.serial('a user without HTCondor is told what is missing', async (t) => {
  const { PATH } = process.env;
  process.env.PATH = join(folder, 'no-programs');
  try {
    const error = await t.throwsAsync(requirePool(1000), { code: 'E_FARM_POOL' });
    t.is(error?.message, 'HTCondor is not installed here');
    // Steps may be in the queue where nobody says which machines there are.
    t.regex((await whyStepsWait(PLAN)) ?? '', /^condor_status: /);
  } finally {
    process.env.PATH = PATH;
  }
});

test('options that need one machine are refused before anything begins', async (t) => {
  for (const [options, why] of [
    [['--sign-key', 'k', '--cache', 'ccache'], /--farm takes no --cache, --sign-key/],
    [['--detach', '--name', 'n'], /--farm takes no --detach, --name \[E_\w+\]\n.*kiln farm resume/],
    [['--additional-package', './x.rpm'], /--farm takes no package from a file: \.\/x\.rpm/],
    [['-r', './own.yaml'], /--farm takes no image by its path: \.\/own\.yaml/],
  ] as const) {
    const argv = ['build', '--chain', '--farm', '-r', 'x', ...options, 'a.src.rpm'];
    const refused = await execa(KILN, argv, { reject: false });
    t.is(refused.exitCode, 125);
    t.regex(refused.stderr, why);
  }
});
