import { mkdir, readdir, readFile, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import type { ErrorCode } from '../../../src/error-codes.ts';
import { KilnError } from '../../../src/errors.ts';
import { ownPath } from '../../../src/host/files/held.ts';
import { buildPackage } from '../../../src/jobs/rpmbuild/build.ts';
import type { BuildRequest } from '../../../src/jobs/rpmbuild/request.ts';
import { KILN, PATIENCE } from '../../support/busybox-state.ts';
import { long } from '../../support/long.ts';
import {
  type BuildState,
  buildState,
  leftovers,
  resultFile,
  type SpecParts,
  sourcePackage,
  specText,
} from './build-state.ts';

let state: BuildState;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await buildState('all');
});
test.after.always(() => state[Symbol.asyncDispose]());
test.afterEach.always(async (t) => {
  t.deepEqual(await leftovers(state), []);
});

interface Case {
  readonly what: string;
  readonly parts: SpecParts;
  readonly wanted?: Partial<BuildRequest>;
  readonly status: number;
  readonly code: ErrorCode;
  readonly phase: string;
  /** One of the last lines. */
  readonly line?: RegExp;
  readonly message?: RegExp;
  readonly limit?: string;
}

const MINUTE = 60_000;

const cases: readonly Case[] = [
  {
    what: 'a spec with a syntax error',
    parts: { name: 'syntax', preamble: 'Nonsense: yes' },
    status: 3,
    code: 'E_BUILD_SPEC',
    phase: 'srpm',
    line: /^error: line \d+: Unknown tag: Nonsense: yes/,
  },
  {
    what: 'a requirement that nobody provides',
    parts: { name: 'unmet', preamble: 'BuildRequires: nobody-has-this > 3' },
    status: 4,
    code: 'E_SOLVER_PROBLEM',
    phase: 'dependencies',
    message: /no package provides:\n {2}nobody-has-this > 3$/,
  },
  {
    what: '%prep',
    parts: { name: 'prep', prep: 'echo unpacking; exit 7' },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'prep',
    line: /^unpacking$/,
    message: /^%prep failed: exit status 1$/,
  },
  {
    what: '%generate_buildrequires',
    parts: { name: 'generate', buildrequires: 'echo cannot find out >&2; exit 1' },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'dynamic-buildrequires',
    line: /^cannot find out$/,
    message: /^%generate_buildrequires failed/,
  },
  {
    what: 'the compiler',
    parts: {
      name: 'compiler',
      build:
        'for i in $(seq 300); do echo chatter $i; done\necho "int f(){return x;}" > a.c; gcc -c a.c; ',
    },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'compile',
    line: /^a\.c:1:16: error: .x. undeclared/,
    message: /^%build failed: exit status 1$/,
  },
  {
    what: '%install',
    parts: { name: 'install', install: 'cp /nowhere/at/all .' },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'install',
    line: /No such file or directory/,
  },
  {
    what: '%check',
    parts: { name: 'check', check: 'echo "FAILED: 1 of 3"; false' },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'check',
    line: /^FAILED: 1 of 3$/,
  },
  {
    what: 'a file that is listed and not there',
    parts: { name: 'files', files: '/usr/share/absent' },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'package',
    line: /File not found: .*\/usr\/share\/absent/,
  },
  {
    what: 'no package at all',
    parts: { name: 'nothing', files: false },
    status: 1,
    code: 'E_BUILD_OUTPUT',
    phase: 'collect',
    message: /made no package/,
  },
  {
    what: 'forks without end',
    parts: { name: 'forks', build: 'f() { f | f & }; f; sleep 600' },
    wanted: { pids: 80, timeout: 4000 * PATIENCE },
    status: 124,
    code: 'E_BUILD_FAILED',
    phase: 'compile',
    limit: 'timeout',
  },
  {
    what: 'never a word',
    parts: { name: 'silent', build: 'sleep 600' },
    wanted: { stallTimeout: 2000 * PATIENCE },
    status: 124,
    code: 'E_BUILD_FAILED',
    phase: 'compile',
    limit: 'stall',
    message: /^%build failed: it wrote nothing for too long$/,
  },
  {
    what: 'a full disk',
    parts: { name: 'disk', build: 'dd if=/dev/zero of=big bs=1M count=500' },
    wanted: { disk: 64 * 2 ** 20 },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'compile',
    limit: 'disk',
    line: /No space left on device/,
  },
  {
    what: 'memory',
    parts: { name: 'memory', build: `perl -e '$x = "a" x (1 << 30); print length $x'` },
    wanted: { memory: 256 * 2 ** 20 },
    status: 1,
    code: 'E_BUILD_FAILED',
    phase: 'compile',
    limit: 'memory',
  },
];

for (const { what, parts, wanted, status, code, phase, line, message, limit } of cases) {
  test.serial(`a build fails and says why: ${what}`, async (t) => {
    t.timeout(3 * MINUTE * PATIENCE);
    // A spec that rpmbuild refuses cannot be packed by it, either.
    const report =
      code === 'E_BUILD_SPEC' ? await buildSpec(parts, wanted) : await state.build(parts, wanted);
    t.is(report.failure?.code, code, report.failure?.stack);
    t.is(report.exitStatus, status);
    t.is(report.failedPhase, phase as typeof report.failedPhase);
    t.is(report.limitHit, (limit ?? null) as typeof report.limitHit);
    if (line !== undefined) {
      t.true(
        report.lastLines.some((text) => line.test(text)),
        report.lastLines.join('\n'),
      );
    }
    t.true(report.lastLines.length <= 15);
    if (message !== undefined) t.regex(report.failure?.message ?? '', message);
    const result = JSON.parse(await resultFile(report, 'result.json'));
    t.is(result.failure.code, code);
    t.is(result.exitStatus, status);
    t.deepEqual(result.failure.lastLines, report.lastLines);
    t.deepEqual(report.packages, []);
  });
}

async function buildSpec(parts: SpecParts, wanted?: Partial<BuildRequest>) {
  const { specText } = await import('./build-state.ts');
  const path = join(await state.fresh(), `${parts.name}.spec`);
  await writeFile(path, specText(parts));
  const source = { kind: 'spec' as const, path: ownPath(path) };
  return await buildPackage(state.images.engine, await state.request(path, { ...wanted, source }));
}

test.serial('a file that is not a source package is refused', async (t) => {
  const directory = await state.fresh();
  const text = join(directory, 'text.src.rpm');
  await writeFile(text, 'this is not a package\n'.repeat(100));
  const binary = join(state.tools, 'noarch', 'tool-a-1-1.noarch.rpm');
  const whole = await sourcePackage(directory, { name: 'cut' });
  const cut = join(directory, 'cut.src.rpm');
  await writeFile(cut, (await readFile(whole)).subarray(0, (await stat(whole)).size - 50));
  for (const [path, code] of [
    [text, 'E_BUILD_SOURCE'],
    [binary, 'E_BUILD_SOURCE'],
    [join(directory, 'absent.src.rpm'), 'E_BUILD_SOURCE'],
    [directory, 'E_BUILD_SOURCE'],
    [cut, 'E_BUILD_SRPM'],
  ] as const) {
    const report = await buildPackage(state.images.engine, await state.request(path));
    t.is(report.failure?.code, code, path);
    t.is(report.exitStatus, 3, path);
  }
});

test.serial('a result folder that cannot be written is named', async (t) => {
  const path = await sourcePackage(await state.fresh(), { name: 'plain' });
  const file = join(await state.fresh(), 'file');
  await writeFile(file, '');
  for (const folder of ['/proc/doesnotwork', join(file, 'below')]) {
    const request = await state.request(path, { resultDirectory: ownPath(folder) });
    const report = await buildPackage(state.images.engine, request);
    t.is(report.failure?.code, 'E_RESULTDIR');
    t.is(report.exitStatus, 125);
  }
  const words = ['build', '-r', state.recipe, path, '--resultdir'];
  const unusable = await state.images.kiln([...words, file]);
  t.notRegex(String(unusable.stderr), /report\.html/);
  const empty = await state.images.kiln([...words, '']);
  t.is(empty.exitCode, 125);
  t.regex(String(empty.stderr), /--resultdir.*a path cannot be empty/);
});

test.serial('a folder in place of a package is reported in the result', async (t) => {
  const path = await sourcePackage(await state.fresh(), { name: 'plain' });
  const resultDirectory = await state.fresh();
  const { stdout: arch } = await execa('uname', ['-m']);
  await mkdir(join(resultDirectory, `plain-1-1.${arch}.rpm`));
  const report = await buildPackage(
    state.images.engine,
    await state.request(path, { resultDirectory: ownPath(resultDirectory) }),
  );
  t.is(report.failure?.code, 'E_RESULTDIR');
  const result = JSON.parse(await readFile(join(resultDirectory, 'result.json'), 'utf8'));
  t.is(result.failure.code, 'E_RESULTDIR');
  t.is(result.build.nvr, 'plain-1-1');
  t.true((await readdir(resultDirectory)).includes('report.html'));
});

test.serial('links, pipes and folders among the packages give a warning', async (t) => {
  const secret = join(await state.fresh(), 'secret');
  await writeFile(secret, 'secret');
  const there = '/builddir/build/RPMS';
  const links = await state.build({
    name: 'links',
    install: `ln -s ${secret} ${there}/evil.rpm; ln -s /etc/shadow ${there}/shadow.rpm; mkfifo ${there}/pipe.rpm`,
  });
  t.is(links.exitStatus, 0, links.failure?.message);
  const files = await readdir(links.resultDirectory);
  for (const name of ['evil.rpm', 'shadow.rpm', 'pipe.rpm']) t.false(files.includes(name));
  t.deepEqual(links.warnings.map(({ code }) => code).sort(), [
    'link-outside',
    'link-outside',
    'special-file',
  ]);
  const away = await state.build({ name: 'away', install: `rm -r ${there}; ln -s /etc ${there}` });
  t.not(away.exitStatus, 0);
  const folder = await state.build({ name: 'folder', install: `mkdir ${there}/folder.rpm` });
  t.is(folder.failure?.code, 'E_BUILD_OUTPUT');
  const junk = await state.build({ name: 'junk', install: `echo junk > ${there}/junk.rpm` });
  t.is(junk.failure?.code, 'E_BUILD_OUTPUT');
  t.is(junk.exitStatus, 1);
  t.false((await readdir(junk.resultDirectory)).includes('junk.rpm'));
});

long('ten thousand packages can be collected', async (t) => {
  t.timeout(5 * MINUTE * PATIENCE);
  const report = await state.build({
    name: 'many',
    install: `perl -e 'for (1..10000) { link "/builddir/build/originals/many-1-1.src.rpm", "/builddir/build/RPMS/many-$_.rpm" or die $! }'`,
  });
  t.is(report.exitStatus, 0, report.failure?.message);
  const files = (await readdir(report.resultDirectory)).filter((name) =>
    /^many-\d+\.rpm$/.test(name),
  );
  t.is(files.length, 10_000);
  const flood = await state.build({
    name: 'flood',
    install: `perl -e 'for (1..30000) { link "/builddir/build/originals/flood-1-1.src.rpm", "/builddir/build/RPMS/many-$_.rpm" or die $! }'`,
  });
  t.is(flood.failure?.code, 'E_BUILD_OUTPUT');
  t.false((await readdir(flood.resultDirectory)).some((name) => name.endsWith('.rpm')));
});

test.serial('background processes end with their build', async (t) => {
  const marker = `kiln-left-${process.pid}`;
  const report = await state.build({
    name: 'daemon',
    build: `setsid sh -c 'exec -a ${marker} sleep 500' >/dev/null 2>&1 &\nsleep 0.1`,
  });
  t.is(report.exitStatus, 0, report.failure?.message);
  const { stdout } = await execa('ps', ['-eo', 'args']);
  t.false(stdout.includes(marker));
});

test.serial('an interrupted build ends at once and says so', async (t) => {
  const controller = new AbortController();
  const started = performance.now();
  const report = await state.build(
    { name: 'hang', build: 'sleep 600' },
    {},
    {
      signal: controller.signal,
      onPhase: (phase, event) => {
        if (phase === 'compile' && event === 'start') {
          controller.abort(new KilnError('E_INTERRUPTED', 'interrupted'));
        }
      },
    },
  );
  t.is(report.exitStatus, 130);
  t.is(report.failure?.code, 'E_INTERRUPTED');
  t.true(performance.now() - started < MINUTE * PATIENCE);
});

test.serial('a listener that throws fails the build, not the process', async (t) => {
  const parts = { name: 'listener', build: 'echo first; sleep 60' };
  const asked = new Set<string>();
  const report = await state.build(
    parts,
    {},
    {
      onOutput: (log, chunk) => {
        asked.add(log);
        if (chunk.includes('first\n')) throw new Error('the listener is broken');
      },
    },
  );
  t.true(asked.has('build.log'));
  t.is(report.failure?.message, 'the listener is broken');
  t.is(report.exitStatus, 125);
});

test.serial('a failed build names its report, and how to enter its sandbox', async (t) => {
  const directory = await state.fresh();
  const build = async (name: string, parts: SpecParts, ...more: string[]) => {
    const spec = join(directory, `${name}.spec`);
    await writeFile(spec, specText(parts));
    const results = join(directory, name);
    const words = ['build', '-r', state.recipe, '--spec', spec, '--resultdir', results, ...more];
    // Parked sandboxes would be taken for what is left of a build.
    const env = { ...state.images.env, KILN_PARKED: '0' };
    const { exitCode, stderr } = await state.images.kiln(words, { env });
    return { exitCode, results, text: String(stderr) };
  };
  const failed = await build('broken', { name: 'broken', build: 'false' });
  t.is(failed.exitCode, 1, failed.text);
  t.true(failed.text.includes(`\n  see ${failed.results}/report.html`), failed.text);
  t.true((await readdir(failed.results)).includes('report.html'));
  t.regex(failed.text, /build it again with --keep, and then: kiln shell ID$/m);
  const kept = await build('broken', { name: 'broken', build: 'false' }, '--keep=1m');
  const [, id = ''] = /kept as (\w+): kiln shell \w+$/m.exec(kept.text) ?? [];
  await state.images.kiln(['kill', id]);
  t.notRegex(kept.text, /build it again with --keep/);

  const preamble = 'Source0: none-1.tar.gz\nPatch1: none.patch';
  const missing = await build('missing', { name: 'missing', preamble });
  t.is(missing.exitCode, 3, missing.text);
  t.regex(
    missing.text,
    /hint: .* is missing \((?:none-1\.tar\.gz, none\.patch|none\.patch, none-1\.tar\.gz)\): --sources names/,
  );
  const sources = join(directory, 'sources');
  await mkdir(sources);
  await writeFile(join(directory, 'none-1.tar.gz'), 'x');
  await symlink('../none-1.tar.gz', join(sources, 'none-1.tar.gz'));
  const [away, patch] = [{ name: 'away', preamble: 'Source0: none-1.tar.gz' }, '--sources'];
  t.regex(
    (await build('away', away, patch, sources)).text,
    /hint: a Source or Patch is a link to .* \(none-1\.tar\.gz\)/,
  );
  t.regex(
    (await build('away', away, patch, join(directory, 'none-1.tar.gz'))).text,
    /kiln: \S+\/none-1\.tar\.gz is not a folder/,
  );
  const long = { name: 'long', preamble: `Source0: ${'n'.repeat(300)}` };
  const tooLong = await build('long', long, patch, sources);
  t.is(tooLong.exitCode, 3, tooLong.text);
  t.regex(tooLong.text, /hint: a Source or Patch of the spec is missing \(n+\)/);
});

test.serial(
  'a missing image fails a build early, even if its source takes long to read',
  async (t) => {
    const big = join(await state.fresh(), 'big.src.rpm');
    // Sparse: what counts is how long its digest takes.
    await writeFile(big, '');
    await truncate(big, 600 * 2 ** 20);
    const directory = await state.fresh();
    const args = ['build', '-r', 'nosuchimage', big, '--resultdir', directory];
    const { exitCode, stderr } = await execa(KILN, args, {
      env: state.images.env,
      reject: false,
      timeout: 60_000 * PATIENCE,
    });
    t.is(exitCode, 125, stderr);
    t.regex(
      stderr,
      /^kiln: there is no image and no recipe called nosuchimage \[E_IMAGE_MISSING\]$/m,
    );
    t.notRegex(stderr, /\n {4}at |Node\.js/);
    const result = JSON.parse(await readFile(join(directory, 'result.json'), 'utf8'));
    t.is(result.failure?.code, 'E_IMAGE_MISSING');
    t.is(result.exitStatus, 125);
  },
);
