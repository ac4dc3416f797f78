import {
  mkdir,
  readdir,
  readFile,
  rename,
  stat,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join, relative } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { ownPath } from '../../../src/host/files/held.ts';
import { buildPackage } from '../../../src/jobs/rpmbuild/build.ts';
import { thinOut } from '../../../src/jobs/rpmbuild/buildroot/cache-tree.ts';
import { resumeBuild } from '../../../src/jobs/rpmbuild/keep.ts';
import { lockResults } from '../../../src/jobs/rpmbuild/outcome/result-files.ts';
import { sweepSandboxes } from '../../../src/sandbox/domain/sweep.ts';
import { MAIN, PATIENCE } from '../../support/busybox-state.ts';
import { long } from '../../support/long.ts';
import {
  type BuildState,
  buildState,
  leftovers,
  resultFile,
  sourcePackage,
} from './build-state.ts';

const MINUTE = 60_000;

let state: BuildState;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await buildState('noarch');
});
test.after.always(() => state[Symbol.asyncDispose]());

/** kiln as one process, so that a signal reaches it and not its shell wrapper. */
function kiln(args: readonly string[]) {
  return execa(process.execPath, [MAIN, ...args], {
    env: state.images.env,
    reject: false,
    stdin: 'ignore',
    timeout: 4 * MINUTE * PATIENCE,
  });
}

/** Every part takes a moment, and the layer is made anew, so that each can be hit. */
const SLOW = {
  name: 'slow',
  preamble: 'BuildRequires: tool-a',
  prep: 'sleep 0.2',
  build: 'sleep 0.2',
  install: 'sleep 0.2',
  check: 'sleep 0.2',
};

for (const phase of ['image', 'sandbox', 'srpm', 'build', 'collect', 'destroy']) {
  const killed: typeof long = ['build', 'collect'].includes(phase) ? test.serial : long;
  killed(`kill -9 in the phase ${phase}: the next build cleans up and works`, async (t) => {
    t.timeout(4 * MINUTE * PATIENCE);
    const path = await sourcePackage(await state.fresh(), SLOW);
    const resultdir = await state.fresh();
    const args = ['build', '-q', '-r', state.recipe, '--resultdir', resultdir, path];
    const victim = kiln(args);
    await phaseStarted(resultdir, phase);
    victim.kill('SIGKILL');
    await victim;
    // It may have died just while it wrote a file.
    await writeFile(join(resultdir, '.lock.json.07a1f446-f2b7-49d1-975e-5aa4dae950e6'), '');
    const again = await kiln(args);
    t.is(again.exitCode, 0, again.stderr);
    const result = JSON.parse(await readFile(join(resultdir, 'result.json'), 'utf8'));
    t.is(result.build.packages.length, 1);
    t.deepEqual(
      (await readdir(resultdir)).filter((name) => name.startsWith('.')),
      [],
    );
    const { paths, connect } = state.images.engine;
    await sweepSandboxes(paths, connect);
    t.deepEqual(await leftovers(state), []);
  });
}

long('after kill -9 in a build, and in the cleanup, the next build succeeds', async (t) => {
  t.timeout(8 * MINUTE * PATIENCE);
  const path = await sourcePackage(await state.fresh(), { ...SLOW, build: 'sleep 600' });
  const begun = async () => {
    const resultdir = await state.fresh();
    const args = ['build', '-q', '-r', state.recipe, '--resultdir', resultdir, path];
    const victim = kiln(args);
    await phaseStarted(resultdir, 'build');
    victim.kill('SIGKILL');
    await victim;
  };
  let interrupted = 0;
  // The clean-up of the one before takes `whole`: it is killed in each quarter of that.
  let whole = 0;
  for (const part of [1, 0.25, 0.5, 0.75, 0.95]) {
    await begun();
    const from = Date.now();
    const cleaner = kiln(['gc']);
    const timer = whole > 0 && setTimeout(() => cleaner.kill('SIGKILL'), whole * part);
    const { signal, exitCode, stderr } = await cleaner;
    if (timer !== false) clearTimeout(timer);
    if (signal === 'SIGKILL') interrupted++;
    else t.is(exitCode, 0, stderr);
    whole ||= Date.now() - from;
    const last = await kiln(['gc']);
    t.is(last.exitCode, 0, last.stderr);
    t.deepEqual(await leftovers(state), [], `killed after ${part} of ${whole} ms`);
  }
  t.true(interrupted > 0, 'no clean-up was hit');
  const good = await state.build({ name: 'after' });
  t.is(good.exitStatus, 0, good.failure?.stack);
});

/** Waits until state.log tells that a phase has begun. */
async function phaseStarted(resultdir: string, phase: string): Promise<void> {
  for (const end = Date.now() + 2 * MINUTE * PATIENCE; Date.now() < end; await sleep(2)) {
    const log = await readFile(join(resultdir, 'state.log'), 'utf8').catch(() => '');
    if (log.includes(` - Start: ${phase}\n`)) return;
  }
  throw new Error(`the phase ${phase} never began`);
}

test.serial('a failed build can be kept, entered, mended and resumed', async (t) => {
  t.timeout(2 * MINUTE * PATIENCE);
  const failed = await state.build(
    {
      name: 'broken',
      prep: 'echo made by prep > prepared',
      buildrequires: 'echo "coreutils > 0"',
      build: 'test -e mended',
    },
    { keep: 300_000 },
  );
  t.is(failed.exitStatus, 1);
  t.true(failed.kept);
  const id = failed.sandbox ?? '';
  const shell = await execa(process.execPath, [MAIN, 'shell', id], {
    env: state.images.env,
    input: 'id -un; pwd; cat prepared; grep CapBnd /proc/self/status; touch mended',
    reject: false,
  });
  t.is(shell.exitCode, 0, shell.stderr);
  t.deepEqual(shell.stdout.split('\n'), [
    'build',
    '/builddir/build/BUILD/broken-1-build',
    'made by prep',
    'CapBnd:\t0000000000000000',
  ]);
  const resultDirectory = await state.fresh();
  {
    using _other = await lockResults(ownPath(resultDirectory), { uid: 0, gid: 0 });
    const refused = await kiln(['build', '--resume', id, '--resultdir', resultDirectory]);
    t.is(refused.exitCode, 125);
    t.regex(refused.stderr, /another build writes to .* \[E_RESULTDIR_BUSY\]/);
  }
  // The folder of the first call, which is a link by now.
  await rename(failed.resultDirectory, `${failed.resultDirectory}.old`);
  const secret = await state.fresh();
  await symlink(secret, failed.resultDirectory);
  const linked = await kiln(['build', '--resume', id]);
  t.is(linked.exitCode, 125);
  t.regex(linked.stderr, /it is a symbolic link, .* \[E_RESULTDIR\]/);
  t.deepEqual(await readdir(secret), []);
  const resumed = await kiln(['build', '--resume', id, '--resultdir', resultDirectory]);
  t.is(resumed.exitCode, 0, resumed.stderr);
  const names = await readdir(resultDirectory);
  t.is(names.filter((name) => /^broken-1-1\.(?!src)\w+\.rpm$/.test(name)).length, 1);
  const source = join(resultDirectory, 'broken-1-1.src.rpm');
  const { stdout: requires } = await execa('rpm', ['-qp', '--nosignature', '--requires', source]);
  t.regex(requires, /^coreutils > 0$/m);
  const log = await readFile(join(resultDirectory, 'build.log'), 'utf8');
  t.regex(log, /Executing\(%build\)/);
  t.notRegex(log, /Executing\(%prep\)/);
  t.deepEqual(await leftovers(state), []);
  const gone = await t.throwsAsync(
    resumeBuild(state.images.engine, id, { resultDirectory: ownPath(resultDirectory) }),
  );
  t.is((gone as { code?: string }).code, 'E_NO_SANDBOX');
});

test.serial('a build that succeeds is not kept', async (t) => {
  const report = await state.build({ name: 'fine' }, { keep: 300_000 });
  t.is(report.exitStatus, 0, report.failure?.stack);
  t.false(report.kept);
  t.deepEqual(await leftovers(state), []);
});

test.serial('a cache is found again by the same caller only', async (t) => {
  const parts = {
    name: 'cached',
    build:
      'cat ~/.cache/thing/count || echo none; echo x >> ~/.cache/thing/count; touch ~/.cache/own',
  };
  const caches = [{ name: 'thing', bytes: 2 ** 20 }];
  const counts = (log: string) => log.split('\n').filter((line) => /^(?:x|none)$/.test(line));
  const seen = async (caller: { uid: number; gid: number }) => {
    const report = await state.build(parts, { caches, caller });
    t.is(report.exitStatus, 0, report.failure?.stack);
    return counts(await resultFile(report, 'build.log'));
  };
  t.deepEqual(await seen({ uid: 0, gid: 0 }), ['none']);
  // The command line's is the same one.
  const path = await sourcePackage(await state.fresh(), parts);
  const out = await state.fresh();
  const called = await kiln([
    ...['build', '-r', state.recipe, '--cache', 'thing:1M', '--resultdir', out, path],
  ]);
  t.is(called.exitCode, 0, called.stderr);
  t.deepEqual(counts(await readFile(join(out, 'build.log'), 'utf8')), ['x']);
  t.deepEqual(await seen({ uid: 1234, gid: 1234 }), ['none']);
});

test.serial('a cache is trimmed to its size', async (t) => {
  const caches = [{ name: 'small', bytes: 2 ** 20 }];
  const report = await state.build(
    {
      name: 'filler',
      build:
        'cd ~/.cache/small; for i in $(seq 30); do dd if=/dev/zero of=$i bs=100k count=1 2>/dev/null; done',
    },
    { caches },
  );
  t.is(report.exitStatus, 0, report.failure?.stack);
  const folder = join(state.images.engine.paths.cache, 'builds', '0', 'small');
  const { stdout } = await execa('du', ['-s', '--block-size=1', folder]);
  t.true(Number(stdout.split('\t')[0]) <= 2 ** 20 + 4096, stdout);
});

long('a build that fills its cache is ended', async (t) => {
  t.timeout(2 * MINUTE * PATIENCE);
  const report = await state.build(
    {
      name: 'glutton',
      build: 'dd if=/dev/zero of=$HOME/.cache/narrow/file bs=1M count=8; sleep 600',
    },
    { caches: [{ name: 'narrow', bytes: 2 ** 20 }] },
  );
  t.is(report.failure?.code, 'E_BUILD_CACHE_FULL');
  t.regex(report.failure?.hint ?? '', /its size is 1\.0M:/);
  const folder = join(state.images.engine.paths.cache, 'builds', '0', 'narrow');
  t.true(Number((await execa('du', ['-sk', folder])).stdout.split('\t')[0]) <= 1028);
});

test('the least recently used files of a cache go first, and no link is followed', async (t) => {
  const cache = await state.fresh();
  const outside = join(await state.fresh(), 'outside');
  await writeFile(outside, Buffer.alloc(50_000));
  await mkdir(join(cache, 'sub'));
  for (const [name, age] of [
    ['old', 300],
    ['sub/older', 500],
    ['new', 10],
  ] as const) {
    const path = join(cache, name);
    await writeFile(path, Buffer.alloc(8192, name));
    const time = Date.now() / 1000 - age;
    await utimes(path, time, time);
  }
  // Short, whatever the temporary folder is called: a link of more than 60 bytes takes a block.
  await execa('ln', ['-s', relative(cache, outside), join(cache, 'link')]);
  await execa('ln', ['-s', '..', join(cache, 'sub', 'up')]);
  await thinOut(cache, 16_384);
  t.deepEqual((await readdir(cache)).filter((name) => name !== 'link').sort(), [
    'new',
    'old',
    'sub',
  ]);
  await thinOut(cache, 8192);
  t.true((await readdir(cache)).includes('new'));
  t.false((await readdir(cache)).includes('old'));
  t.is((await stat(outside)).size, 50_000);
});

test.serial('one of two builds into one result folder is refused', async (t) => {
  t.timeout(2 * MINUTE * PATIENCE);
  const resultDirectory = ownPath(await state.fresh());
  const path = await sourcePackage(await state.fresh(), { name: 'twice' });
  const reports = await Promise.all(
    [1, 2].map(async () =>
      buildPackage(state.images.engine, await state.request(path, { resultDirectory })),
    ),
  );
  const failures = reports.map(({ failure }) => failure?.code);
  t.deepEqual(failures.sort(), ['E_RESULTDIR_BUSY', undefined]);
  const [refused] = reports.filter(({ failure }) => failure !== undefined);
  t.is(refused?.exitStatus, 125);
  t.regex(String(refused?.failure), /another build writes to /);
  const result = JSON.parse(await readFile(join(resultDirectory, 'result.json'), 'utf8'));
  t.is(result.exitStatus, 0);
  const rpms = (await readdir(resultDirectory)).filter((name) => name.endsWith('.rpm'));
  t.is(rpms.length, 2);
  for (const name of rpms) await execa('rpm', ['-K', '--nosignature', join(resultDirectory, name)]);
});
