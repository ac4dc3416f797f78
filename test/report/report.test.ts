/** report.html in Debian's Chromium, without a window. */

import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import test from 'ava';
import { ownPath } from '../../src/host/files/held.ts';
import { reportPage } from '../../src/report/page.ts';
import { renewReport } from '../../src/report/write.ts';
import type { Result } from '../../src/result/schema.ts';
import { inBrowser } from '../support/chromium.ts';
import { long } from '../support/long.ts';

const folder = mkdtempSync(join(tmpdir(), 'kiln-report-'));
const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
const PATIENCE = Number(process.env.KILN_TEST_PATIENCE ?? 1);

/** What a hostile package calls itself, and prints. */
const EVIL = `"'><img src=x onerror=document.title='broken'></script><script>document.title='broken'</script>`;

test.after.always(() => rmSync(folder, { recursive: true, force: true }));

function result(changes: Partial<Result> = {}): Result {
  return {
    version: 1,
    kiln: '0.1.0',
    id: 'e0fa632c6b',
    startedAt: '2026-11-24T18:16:54.678Z',
    durationMs: 1188.471,
    exitStatus: 1,
    exit: { code: 1 },
    limitHit: null,
    failure: {
      code: 'E_BUILD_FAILED',
      message: '%build failed: exit status 1',
      phase: 'build',
      causes: [],
      lastLines: ['a.c:2:26: error: expected a semicolon'],
    },
    request: { image: 'debian-build', source: { kind: 'srpm', path: '/srv/hello.src.rpm' } },
    planDigest: '0'.repeat(64),
    image: { id: '1'.repeat(64), name: 'debian-build' },
    policy: null,
    phases: [{ name: 'build', startMs: 10, durationMs: 1000 }],
    resources: { cpuMs: 900 },
    artifacts: [],
    warnings: [],
    build: {
      name: 'hello',
      base: null,
      buildRequires: ['gcc'],
      packages: [],
      sourcePackage: null,
      kept: false,
    },
    ...changes,
  };
}

async function report(name: string, made: Result, log: string): Promise<string> {
  const directory = join(folder, name);
  mkdirSync(directory);
  writeFileSync(join(directory, 'result.json'), JSON.stringify(made));
  writeFileSync(join(directory, 'build.log'), log);
  return await renewReport(ownPath(directory), owner);
}

test('phases that come again have a number, times a zone, and traces are no errors', (t) => {
  const files = { style: '', script: '', plotStyle: '', plotScript: '' };
  const lines = ["+ echo 'FAIL: two'", 'FAIL: two'];
  const failure = { ...result().failure!, lastLines: lines };
  const phases = ['image', 'image', 'dependencies', 'image'].map((name, at) => ({
    ...{ name, startMs: at * 10, durationMs: 5 },
  }));
  const build = { ...result().build!, nvr: 'hello-2.12-1' };
  const page = reportPage(
    { result: result({ failure, phases, build }), logs: [], packages: [] },
    files,
  );
  t.deepEqual(
    [...page.matchAll(/<tr><th scope="row">([^<]*)<\/th><td class="number">/g)].map(
      ([, name]) => name,
    ),
    ['image', 'dependencies', 'image (2)'],
  );
  t.regex(page, /<th scope="row">image<\/th><td class="number">15 ms/, 'from 0 to 5 and 10 to 15');
  t.regex(page, /<time datetime="2026-11-24T18:16:54\.678Z">2026-11-24 18:16 UTC<\/time>/);
  t.regex(page, /<li class=""><code>\+ echo &#39;FAIL: two|<li class=""><code>\+ echo/);
  t.regex(page, /<li class="error"><code>FAIL: two<\/code>/);
  t.regex(page, /<h1>.*hello-2\.12-1<\/h1>/);
});

test.serial('the cause of a failed build links to its line of the log', async (t) => {
  const traced = "+ echo 'a.c:9:9: error: traced'";
  const log = `start\nExecuting(%build): /bin/sh -e\na.c:2:26: error: expected a semicolon\n${traced}\n`;
  const page = await inBrowser(await report('failed', result(), log));
  t.regex(page, /data-ready="4"/);
  t.deepEqual(
    [...page.matchAll(/<li class="error"><a data-line="(\d)"/g)].map(([, line]) => line),
    ['3'],
  );
  t.regex(page, /<code>a\.c:2:26: [^<]*<\/code><a href="#build\.log:3">line 3<\/a>/);
  t.regex(page, /<option value="1">%build<\/option>/);
  t.regex(page, /failed in build/);
});

test.serial(
  'errors far above the end are shown with file and line, but not those of other parts',
  async (t) => {
    const noise = Array.from({ length: 500 }, (_, n) => `gcc -c file${n}.c`);
    const log = [
      ...['Executing(%prep): /bin/sh -e', 'configure.c:1:1: error: only tried', ...noise],
      ...['Executing(%check): /bin/sh -e', 'src/b.c:7:3: error: ‘x’ undeclared', ...noise],
      ...['FAIL: test-two', 'PASS: test-three', ...noise, ''],
    ];
    const page = await inBrowser(await report('causes', result(), log.join('\n')));
    const [, failures = ''] = /<ul class="failures">(.*?)<\/ul>/s.exec(page) ?? [];
    t.regex(
      failures,
      /<b>src\/b\.c:7:3<\/b> ‘x’ undeclared <a href="#build\.log:504">line 504<\/a>/,
    );
    t.regex(failures, /failed test <b>test-two<\/b> <a href="#build\.log:1005">line 1005<\/a>/);
    t.notRegex(failures, /configure|test-three/);
  },
);

test('a recipe’s report has its log, and a command’s file of that name is an artifact', async (t) => {
  const { build: _, ...others } = result({ failure: null, exit: { code: 3 }, exitStatus: 3 });
  const log = 'a.c:1:2: error: of a step\n';
  const recipe = { ...others, request: { argv: ['sh'], recipe: { path: '/r.yaml' } } };
  const page = readFileSync(await report('recipe', recipe, log), 'utf8');
  t.regex(page, /data-name="build\.log"/);
  t.regex(page, /<b>a\.c:1:2<\/b> of a step/);
  const run = { ...others, request: { argv: ['sh'] } };
  const other = readFileSync(await report('run', run, log), 'utf8');
  t.notRegex(other, /data-name|of a step/);
  t.regex(other, /The command exited with 3\./);
});

test.serial('parts of a long log are folded, and open for an address inside', async (t) => {
  const lines = (name: string) => Array.from({ length: 300 }, (_, n) => `${name} ${n}`);
  const log = ['Executing(%prep): x', ...lines('prep'), 'Executing(%build): x', ...lines('build')];
  const path = await report('folded', result(), log.join('\n'));
  const folded = await inBrowser(path, '#build.log:1');
  t.regex(folded, /Executing\(%prep\): x {2}\(300 lines\)/);
  t.regex(folded, /<span>build 0<\/span>/);
  t.notRegex(folded, /<span>prep \d/);
  const opened = await inBrowser(path, '#build.log:100');
  t.regex(opened, /class="marked"[^>]*><a data-line="100">100<\/a><span>prep 98</);
});

test.serial('packages that were added for a build are listed apart from its image', async (t) => {
  const path = await report('added', result(), 'x\n');
  const directory = join(folder, 'added');
  writeFileSync(join(directory, 'installed_pkgs.log'), 'a-1-1.noarch\nb-2-2.noarch\n');
  const layer = { packages: [{ nevra: `b-2-2.noarch${EVIL}` }] };
  writeFileSync(join(directory, 'lock.json'), JSON.stringify({ layer }));
  await renewReport(ownPath(directory), owner);
  const page = readFileSync(path, 'utf8');
  t.regex(page, /1 package was added for this build<\/summary><ul class="packages"><li>b-2-2/);
  t.regex(page, /2 packages in all/);
  t.notRegex(page, /<img/);
  writeFileSync(join(directory, 'lock.json'), '{"layer": 7}');
  await renewReport(ownPath(directory), owner);
  t.notRegex(readFileSync(path, 'utf8'), /were added/);
});

test.serial('an address can name a line', async (t) => {
  const log = Array.from({ length: 5000 }, (_, n) => `line ${n + 1}`).join('\n');
  const page = await inBrowser(await report('address', result(), log), '#build.log:3456');
  t.regex(page, /class="marked"[^>]*><a data-line="3456">3456<\/a><span>line 3456</);
});

test.serial('foreign names and logs bring neither markup nor scripts', async (t) => {
  const evil = result({
    failure: {
      ...{ code: 'E_BUILD_FAILED', phase: EVIL, message: EVIL, hint: EVIL },
      ...{ causes: [EVIL], lastLines: [EVIL, `error: ${EVIL}`] },
    },
    request: { argv: [EVIL], env: [EVIL], path: EVIL },
    image: { id: '1'.repeat(64), name: EVIL },
    phases: [{ name: EVIL, startMs: 0, durationMs: 1 }],
    artifacts: [
      {
        ...{ path: EVIL, source: EVIL, type: 'symlink', size: 1, target: EVIL },
        ...{ mode: '0777', mtime: '2026-11-24T18:16:55.664Z' },
      },
    ],
    warnings: [{ code: EVIL, message: EVIL }],
    refusedCalls: [{ syscall: EVIL, action: EVIL, count: 1 }],
    refusedPaths: [{ path: EVIL, syscall: EVIL, error: EVIL, count: 1 }],
    egress: [{ host: EVIL, port: 1, refused: EVIL, count: 1, sentBytes: 0, receivedBytes: 0 }],
    build: { ...result().build!, name: EVIL, buildRequires: [EVIL] },
  });
  const path = await report('evil', evil, `${EVIL}\n\u001b]0;title\u0007 ${EVIL}\n`);
  writeFileSync(join(folder, 'evil/installed_pkgs.log'), `${EVIL}\n`);
  await renewReport(ownPath(join(folder, 'evil')), owner);
  const page = await inBrowser(path);
  t.regex(page, /data-ready="2"/);
  t.notRegex(page, /<img/);
  t.notRegex(page, /<title>broken/);
  t.is(page.match(/<script/g)?.length, 3, 'the log, the samples and the script of the report');
});

test.serial('a page may load nothing, and runs only its own scripts', async (t) => {
  const path = await report('closed', result(), 'x\n');
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, text.replace('</main>', `<script>document.title='broken'</script></main>`));
  t.notRegex(await inBrowser(path), /<title>broken/);
  t.notRegex(text, /(?:src|href)="?https?:/);
});

test.serial('plots show the samples', async (t) => {
  const samples = Array.from({ length: 20 }, (_, n) => ({
    ...{ ms: n * 200, cpuMs: n * 150, memory: n << 20, read: 0, written: n * 4096 },
  }));
  const page = await inBrowser(await report('sampled', result({ samples }), 'x\n'));
  t.is(page.match(/<canvas/g)?.length, 3);
});

async function opens(name: string, count: number) {
  const lines = Array.from({ length: count }, (_, n) => `gcc -O2 -Wall -c file${n}.c`);
  const path = await report(name, result(), lines.join('\n'));
  const from = performance.now();
  const page = await inBrowser(path);
  return { page, ms: performance.now() - from };
}

test.serial(
  'the page has the beginning and the end of an endless log, and stays small',
  async (t) => {
    // Hardly compressed.
    const noise = randomBytes(12 << 20)
      .toString('hex')
      .replaceAll(/.{100}/g, '$&\n');
    const log = `a.c:1:1: error: first\n${noise.repeat(2)}\nb.c:2:2: error: last\n`;
    const path = await report('endless', result(), log);
    const page = readFileSync(path, 'utf8');
    t.true(page.length < 45 << 20, `${page.length}`);
    const [, packed = ''] = /data-name="build\.log">([^<]*)</.exec(page) ?? [];
    const lines = gunzipSync(Buffer.from(packed, 'base64')).toString().split('\n');
    const note = lines.findIndex((line) => line.startsWith('['));
    const [, leftOut] =
      /^\[(\d+) bytes of build\.log are not in this report\]$/.exec(lines[note] ?? '') ?? [];
    const kept = lines.toSpliced(note, 1).join('\n').length;
    t.is(Number(leftOut), log.length - kept);
    t.true(kept > 31 << 20 && kept <= 32 << 20, `${kept}`);
    // Both lead to their lines in the page.
    t.regex(page, /first <a href="#build\.log:1">/);
    t.regex(page, new RegExp(`last <a href="#build\\.log:${lines.length - 1}">`));
  },
);

test.serial('only the visible part of a log is in the document', async (t) => {
  const { page } = await opens('some', 50_000);
  t.regex(page, /data-ready="50000"/);
  t.true((page.match(/<li/g)?.length ?? 0) < 1000);
});

long('a million lines take at most two seconds more than ten', async (t) => {
  await opens('first', 10);
  const short = await opens('few', 10);
  const much = await opens('many', 1_000_000);
  t.regex(much.page, /data-ready="1000000"/);
  t.true(much.ms - short.ms < 2000 * PATIENCE, `${much.ms} ms, ${short.ms} ms with ten lines`);
});

test.serial('an invalid result is refused, and no link is followed', async (t) => {
  const directory = join(folder, 'broken');
  mkdirSync(directory);
  await t.throwsAsync(renewReport(ownPath(directory), owner), { code: 'E_RESULT' });
  writeFileSync(join(directory, 'result.json'), '{"version": 1}');
  await t.throwsAsync(renewReport(ownPath(directory), owner), { code: 'E_RESULT' });
  writeFileSync(join(directory, 'result.json'), JSON.stringify(result()));
  writeFileSync(join(folder, 'secret'), 'secret\n');
  symlinkSync(join(folder, 'secret'), join(directory, 'build.log'));
  const path = await renewReport(ownPath(directory), owner);
  t.notRegex(readFileSync(path, 'utf8'), /data-name="build\.log"/);
});
