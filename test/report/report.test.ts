/** report.html in Debian's Chromium, without a window. */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { renewReport } from '../../src/report/write.ts';
import type { Result } from '../../src/result/schema.ts';

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
  return await renewReport(directory, owner);
}

/** The document after its scripts have run. */
async function inBrowser(path: string, hash = ''): Promise<string> {
  const profile = mkdtempSync(join(folder, 'profile-'));
  const { stdout } = await promisify(execFile)(
    'chromium',
    [
      ...['--headless', '--no-sandbox', '--disable-gpu', `--user-data-dir=${profile}`],
      ...['--virtual-time-budget=20000', '--dump-dom', `file://${path}${hash}`],
    ],
    { maxBuffer: 2 ** 28, timeout: 120_000 * PATIENCE },
  );
  return stdout;
}

test.serial('a failed build: its cause leads to the line of the log', async (t) => {
  const log = `start\nExecuting(%build): /bin/sh -e\na.c:2:26: error: expected a semicolon\nend\n`;
  const page = await inBrowser(await report('failed', result(), log));
  t.regex(page, /data-ready="4"/);
  t.regex(page, /<a href="#build\.log:3">line 3<\/a>/);
  t.regex(page, /<option value="1">%build<\/option>/);
  t.regex(page, /failed in build/);
});

test.serial('an address names a line', async (t) => {
  const log = Array.from({ length: 5000 }, (_, n) => `line ${n + 1}`).join('\n');
  const page = await inBrowser(await report('address', result(), log), '#build.log:3456');
  t.regex(page, /class="marked"[^>]*><a data-line="3456">3456<\/a><span>line 3456</);
});

test.serial('names and logs of strangers bring neither markup nor scripts', async (t) => {
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
    egress: [{ host: EVIL, port: 1, refused: EVIL, count: 1, sentBytes: 0, receivedBytes: 0 }],
    build: { ...result().build!, name: EVIL, buildRequires: [EVIL] },
  });
  const path = await report('evil', evil, `${EVIL}\n\u001b]0;title\u0007 ${EVIL}\n`);
  writeFileSync(join(folder, 'evil/installed_pkgs.log'), `${EVIL}\n`);
  await renewReport(join(folder, 'evil'), owner);
  const page = await inBrowser(path);
  t.regex(page, /data-ready="2"/);
  t.notRegex(page, /<img/);
  t.notRegex(page, /<title>broken/);
  t.is(page.match(/<script/g)?.length, 3, 'the log, the samples and the script of the report');
});

test.serial('a page may load nothing, and run its own scripts only', async (t) => {
  const path = await report('closed', result(), 'x\n');
  const text = readFileSync(path, 'utf8');
  writeFileSync(path, text.replace('</main>', `<script>document.title='broken'</script></main>`));
  t.notRegex(await inBrowser(path), /<title>broken/);
  t.notRegex(text, /(?:src|href)="?https?:/);
});

test.serial('plots show what was sampled', async (t) => {
  const samples = Array.from({ length: 20 }, (_, n) => ({
    ...{ ms: n * 200, cpuMs: n * 150, memory: n << 20, read: 0, written: n * 4096 },
  }));
  const page = await inBrowser(await report('sampled', result({ samples }), 'x\n'));
  t.is(page.match(/<canvas/g)?.length, 3);
});

test.serial('a million lines take at most two seconds more than ten', async (t) => {
  const lines = (count: number) =>
    Array.from({ length: count }, (_, n) => `gcc -O2 -Wall -c file${n}.c -o file${n}.o`).join('\n');
  const took = async (path: string) => {
    const from = performance.now();
    const page = await inBrowser(path);
    return { page, ms: performance.now() - from };
  };
  const few = await report('few', result(), lines(10));
  const many = await report('many', result(), lines(1_000_000));
  await took(few);
  const short = await took(few);
  const long = await took(many);
  t.regex(long.page, /data-ready="1000000"/);
  t.true(long.ms - short.ms < 2000 * PATIENCE, `${long.ms} ms, ${short.ms} ms with ten lines`);
  t.true((long.page.match(/<li/g)?.length ?? 0) < 1000, 'only what is seen is in the document');
});

test.serial('what is no result is refused, and no link is followed', async (t) => {
  const directory = join(folder, 'broken');
  mkdirSync(directory);
  await t.throwsAsync(renewReport(directory, owner), { code: 'E_RESULT' });
  writeFileSync(join(directory, 'result.json'), '{"version": 1}');
  await t.throwsAsync(renewReport(directory, owner), { code: 'E_RESULT' });
  writeFileSync(join(directory, 'result.json'), JSON.stringify(result()));
  writeFileSync(join(folder, 'secret'), 'secret\n');
  symlinkSync(join(folder, 'secret'), join(directory, 'build.log'));
  const path = await renewReport(directory, owner);
  t.notRegex(readFileSync(path, 'utf8'), /data-name="build\.log"/);
});
