/**
 * What scripts/test runs once Node is there: build, checks, fixtures, all tests, and a look for
 * what they left behind. `--long` also takes the tests that are too long for every change
 * (test/support/long.ts), `--all` those that take turns (turns.ts), `--changed` only those that a change since origin/main concerns (changed.ts); other
 * arguments go to ava (file patterns, `--match`). Ends with one line,
 * `N passed, N failed`, where everything that is wrong with a run counts as failed.
 */
import {
  chmodSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { changedTests } from './changed.ts';
import { Leftovers } from './leftovers.ts';
import { mountMemory, unmountMemory } from './memory.ts';
import { readSkipList, type SkipList, skipProblems } from './skips.ts';
import { describeDescendants, killTree, StallWatch } from './stall.ts';
import { runStep, type Step } from './steps.ts';
import { TapReader } from './tap.ts';
import { TAKES_TURNS, TURNS, turnOf } from './turns.ts';

const top = join(import.meta.dirname, '../..');
const SLOWEST_SHOWN = 10;
const FAILURE_LINES = 16;

/**
 * Longest time in which no test ends, milliseconds: beyond any test's own limit. ava's own time-out is
 * shorter, but a test that has asked for more can keep it from ever coming (ava 8, TimeoutTrigger).
 */
const STALL =
  Number(process.env.KILN_TEST_STALL || 720 * Number(process.env.KILN_TEST_PATIENCE || 1)) * 1000;

/** Built once and kept: tests find it by KILN_FIXTURES. */
const fixtures = process.env.KILN_FIXTURES ?? join(top, '.cache/fixtures');

/** How much longer than a container an emulated machine may take. */
const MACHINE_PATIENCE = 12;

/** Threads of rpmbuild (OpenMP) that wait leave the processor to others: a thousand rpmbuilds are run. */
const PASSIVE = { OMP_WAIT_POLICY: 'passive' };

const build: Step = { title: 'build', command: [process.execPath, 'scripts/build.ts'] };

const checks: readonly Step[] = [
  { title: 'types (tsc)', command: [process.execPath, '--run', 'check:types'] },
  { title: 'format and lint (biome)', command: [process.execPath, '--run', 'check:lint'] },
  { title: 'kept promises', command: [process.execPath, '--run', 'check:promises'] },
  { title: 'dead code (knip)', command: [process.execPath, '--run', 'check:dead'] },
  { title: 'messages of new commits', command: [process.execPath, '--run', 'check:commits'] },
];

const makeFixtures: Step = {
  title: 'fixtures: a repository of RPMs made of Debian packages',
  command: [process.execPath, 'fixtures/debian-rpms/main.ts'],
  env: { KILN_FIXTURES: fixtures, ...PASSIVE },
};

/** Runs ava and passes its results on, to `reader` as well; the closing counts of TAP are ours to print. */
async function runTests(
  reader: TapReader,
  args: readonly string[],
  env: Record<string, string>,
): Promise<void> {
  reader.planned = undefined;
  const program = [
    '--import',
    './scripts/testing/tap-errors.ts',
    'node_modules/ava/entrypoints/cli.js',
  ];
  const ava = execa(process.execPath, [...program, '--tap', ...args], {
    cwd: top,
    env,
    stdin: 'ignore',
    stderr: 'inherit',
    buffer: false,
    reject: false,
  });
  const { pid } = ava;
  using watch = new StallWatch(STALL, () => {
    if (pid === undefined) return;
    const running = describeDescendants(pid);
    problems.push(
      [`no test has ended for ${STALL / 1000} s; what ran then:`, ...running].join('\n    '),
    );
    killTree(pid);
  });
  for await (const line of ava) {
    watch.alive();
    reader.line(line);
    if (!/^(1\.\.\d+|# (tests|pass|skip|fail) \d+)$/.test(line)) process.stdout.write(`${line}\n`);
  }
  const { exitCode, signal } = await ava;
  if (exitCode !== 0 && reader.count('failed') + reader.count('todo') === 0) {
    problems.push(`ava ended with ${signal ?? `status ${exitCode}`} though no test failed`);
  }
  if (reader.planned === undefined) problems.push('ava stopped before it had run every test');
  if (reader.count('passed') === 0) problems.push('no test passed');
}

/** How long the processors have done nothing and anything, in ticks since the machine's start: proc_stat(5). */
function processorTicks(): { readonly idle: number; readonly all: number } {
  const [, ...fields] = (readFileSync('/proc/stat', 'utf8').split('\n')[0] ?? '').split(/ +/);
  const [user = 0, nice = 0, system = 0, idle = 0, wait = 0, ...more] = fields.map(Number);
  const busy = [user, nice, system, ...more.slice(0, 3)].reduce((sum, it) => sum + it, 0);
  return { idle: idle + wait, all: busy + idle + wait };
}

/** A folder for everything temporary: what is in it at the end was left behind. */
function makeFolder(parent: string, mount?: (folder: string) => void): string {
  const folder = mkdtempSync(join(realpathSync(parent), 'kiln-test-'));
  mount?.(folder);
  // Sandboxes reach their images through it with ids of their own.
  chmodSync(folder, 0o711);
  // Where a test that names no state of its own keeps it: never in the machine's.
  mkdirSync(join(folder, 'state'));
  // Where tools that turn on Node's compile cache (npm, tsc) have it: theirs, not a test's.
  mkdirSync(join(folder, 'node-compile-cache'));
  // Where packages of the fixtures are unpacked once for all (test/support/unpacked-packages.ts).
  mkdirSync(join(folder, 'unpacked'));
  return folder;
}

/** Prints what more files at once could gain. */
function printIdle(before: { readonly idle: number; readonly all: number }): void {
  const now = processorTicks();
  const share = (now.idle - before.idle) / (now.all - before.all);
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  process.stdout.write(
    `\n${seconds} s until here; processors idle for ${(share * 100).toFixed(0)} % of the tests\n`,
  );
}

/** Prints the test files that took longest, from what test-file.ts wrote. */
function printSlowest(folder: string): void {
  const times = readdirSync(folder)
    .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')))
    .map(({ file, seconds }: { file: string; seconds: number }) => ({ file, seconds }))
    .sort((a, b) => b.seconds - a.seconds);
  process.stdout.write(`\nSlowest of ${times.length} test files:\n`);
  for (const { file, seconds } of times.slice(0, SLOWEST_SHOWN)) {
    process.stdout.write(`  ${seconds.toFixed(1).padStart(7)} s  ${file}\n`);
  }
}

function printSkips(reader: TapReader, list: SkipList): void {
  for (const { name, outcome } of reader.results) {
    const reason = list[name];
    if (outcome === 'skipped' && reason !== undefined) {
      process.stdout.write(`skipped: ${name} (${reason})\n`);
    }
  }
}

/** Repeats what failed, since the end of a long log is what is kept and looked at. */
function printFailures(reader: TapReader): void {
  const failures = reader.results.filter(({ outcome }) => outcome === 'failed');
  if (failures.length > 0) process.stdout.write('\nFailed:\n');
  for (const { name, details } of failures) {
    const shown = details.slice(0, FAILURE_LINES).map((line) => `  ${line}\n`);
    process.stdout.write(`  ${name}\n${shown.join('')}`);
  }
}

const problems: string[] = [];
const started = performance.now();
// --long is the disk's turn, and who names a folder has chosen.
const isLong = process.argv.includes('--long');
let isMounted = false;
const temporary = makeFolder(tmpdir(), (folder) => {
  isMounted = !isLong && process.env.TMPDIR === undefined && mountMemory(folder);
});
// Not /tmp, which is in memory on many hosts.
const onDisk = makeFolder('/var/tmp');
const left = new Leftovers([temporary, onDisk]);
const times = mkdtempSync(join(tmpdir(), 'kiln-times-'));
process.once('exit', () => {
  if (isMounted) unmountMemory(temporary);
  for (const folder of [times, temporary, onDisk]) rmSync(folder, { recursive: true, force: true });
});
// execa ends the step or the tests that are running when this process exits.
process.once('SIGINT', () => process.exit(130)).once('SIGTERM', () => process.exit(143));

/** Runs one step after the other. */
async function run(
  steps: readonly Step[],
  options?: { readonly isBeside: boolean },
): Promise<void> {
  for (const step of steps) {
    if (!(await runStep(step, top, options))) problems.push(`${step.title} failed`);
  }
}
await run([build]);
// Fixtures are mostly waited for: they are downloaded, where this machine has none.
await Promise.all([run([makeFixtures]), run(checks, { isBeside: true })]);
process.stdout.write('==> tests (ava)\n');
const options = process.argv.slice(2);
const reader = new TapReader();
const chosen = options.filter((option) => !['--long', '--all', '--changed'].includes(option));
if (options.includes('--changed')) chosen.push(...changedTests(top));
const envIn = (folder: string) => ({
  ...(isLong ? { KILN_TEST_LONG: '1' } : {}),
  TMPDIR: folder,
  // The bundle, built above: what users run, and faster.
  KILN_FROM_SOURCE: '',
  // A daemon for each test's state: none parks by itself, none stays for long.
  KILN_PARKED: '0',
  KILN_IDLE: '20s',
  KILN_STATE: join(folder, 'state'),
  KILN_FIXTURES: fixtures,
  KILN_TEST_TIMES: times,
  KILN_TEST_DISK: onDisk,
  KILN_TEST_UNPACKED: join(folder, 'unpacked'),
  ...PASSIVE,
});
// Three files at once share a core (ava.config.js).
const patience = { KILN_TEST_PATIENCE: process.env.KILN_TEST_PATIENCE ?? '3' };
const shared = { ...envIn(temporary), ...patience };
const isWhole = chosen.length === 0 && !isLong && !options.includes('--all');
const turn = isWhole ? turnOf(top) : undefined;
const ticks = processorTicks();
if (chosen.length > 0) await runTests(reader, chosen, shared);
else {
  const whose = turn === undefined ? {} : { KILN_TEST_TURN: String(turn) };
  await runTests(reader, [], { ...shared, ...whose, KILN_TEST_PART: 'together' });
  printIdle(ticks);
  // What measures times has the machine for itself, and a disk, as users have.
  const alone = globSync('test/**/*.alone.test.ts', { cwd: top });
  if (alone.length > 0)
    await runTests(reader, [], {
      ...envIn(isMounted ? onDisk : temporary),
      KILN_TEST_PART: 'alone',
    });
  if (isLong) {
    process.stdout.write('==> tests of sandboxes once more, in machines\n');
    const slowly = { KILN_TEST_PATIENCE: String(MACHINE_PATIENCE), KILN_TEST_LONG: '' };
    await runTests(reader, [], { ...shared, ...slowly, KILN_TEST_PART: 'machines' });
  }
}
const list = readSkipList(top);
problems.push(...skipProblems(reader.results, list));
problems.push(...(await left.find()).map((thing) => `left behind: ${thing}`));

if (turn !== undefined) {
  process.stdout.write(
    `\nturn ${turn + 1} of ${TURNS}: a sixth of ${TAKES_TURNS.length} long test files; --all runs them all\n`,
  );
}
printSlowest(times);
printSkips(reader, list);
printFailures(reader);
if (problems.length > 0) process.stdout.write('\nBeside the tests themselves:\n');
for (const problem of problems) process.stdout.write(`  ${problem}\n`);
process.stdout.write(`\n${((performance.now() - started) / 1000).toFixed(0)} s in all\n`);
const failed = reader.count('failed') + problems.length;
process.stdout.write(`${reader.count('passed')} passed, ${failed} failed\n`);
process.exitCode = failed === 0 ? 0 : 1;
