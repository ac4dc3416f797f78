/** A chain's report.html in Debian's Chromium. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { KilnError } from '../../src/errors.ts';
import { ownPath } from '../../src/host/files/held.ts';
import { chainJson } from '../../src/jobs/chain/request.ts';
import { renewReport, writeChainResult } from '../../src/report/write.ts';
import { inBrowser } from '../support/chromium.ts';

const folder = mkdtempSync(join(tmpdir(), 'kiln-chain-report-'));
const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
const startedAt = new Date('2026-11-28T10:00:00.000Z');

const EVIL = `"'><img src=x onerror=document.title='broken'><script>document.title='broken'</script>`;

test.after.always(() => rmSync(folder, { recursive: true, force: true }));

type Report = Parameters<typeof chainJson>[1];
type Member = Report['members'][number];

/** Members need each other by name; those of `failed` failed in %build, `took` is in seconds. */
interface Plan {
  readonly name: string;
  readonly needs?: readonly string[];
  readonly took?: number;
  readonly at?: number;
  readonly state?: Member['state'];
  readonly reason?: string;
}

function memberOf({ name, needs = [], took = 0, state = 'built', reason }: Plan): Member {
  const failure = new KilnError('E_BUILD_FAILED', '%build failed: exit status 1', { hint: EVIL });
  const end = { exitStatus: 0, failure: undefined, failedPhase: undefined, lastLines: [] };
  const bad = { ...end, exitStatus: 1, failure, failedPhase: 'compile', lastLines: [EVIL] };
  return {
    ...{ name, source: `/srv/${name}.src.rpm`, state, reason, resultDirectory: `/out/${name}` },
    needs: needs.map((member) => ({ member, capabilities: [`${member}-devel`] })),
    packages: state === 'built' ? [{ file: `${name}.noarch.rpm`, sha256: '0'.repeat(64) }] : [],
    durationMs: took * 1000,
    report: state === 'built' ? end : state === 'failed' ? bad : undefined,
  };
}

/** The result directory of a chain, as far as its report reads it. */
async function chain(name: string, plans: readonly Plan[], more = {}): Promise<string> {
  const directory = join(folder, name);
  for (const { name: member, took = 0, at = 0, state = 'built' } of plans) {
    if (member.includes('/')) continue;
    const own = join(directory, member);
    mkdirSync(own, { recursive: true });
    writeFileSync(join(own, 'report.html'), 'its report\n');
    const started = new Date(startedAt.getTime() + at * 1000).toISOString();
    const times = { startedAt: started, durationMs: took * 1000 };
    writeFileSync(join(own, 'result.json'), JSON.stringify(times));
    if (state !== 'failed') continue;
    const log = 'x\nExecuting(%build): sh\nsrc/a.c:12:5: error: expected ‘;’\nmore\n';
    writeFileSync(join(own, 'build.log'), log);
  }
  const members = plans.map(memberOf);
  const exitStatus = members.some(({ state }) => state === 'failed') ? 1 : 0;
  const repository = join(directory, 'repository/current');
  const report = { startedAt, members, repository, exitStatus, failure: undefined };
  const build = { image: 'debian-build', defines: [EVIL] };
  const asked = { jobs: 4, recurse: false, continue: true, resultDirectory: '/out', build };
  const json = chainJson(asked, { ...report, durationMs: 120_000 });
  await writeChainResult(ownPath(directory), JSON.stringify({ ...json, ...more }), owner);
  return directory;
}

test.serial('a report of forty packages has graph, states, critical path and links', async (t) => {
  const plans = Array.from({ length: 40 }, (_, n): Plan => {
    const needs = [Math.floor(n / 2), Math.floor(n / 3)].filter((of) => n > 1 && of < n);
    const layer = Math.floor(Math.log2(n + 1));
    const plan = { name: `lib${n}-1-1`, needs: needs.map((of) => `lib${of}-1-1`), at: layer * 20 };
    if (n === 30) return { ...plan, state: 'failed', took: 3, reason: 'it failed' };
    if (n === 39) return { ...plan, state: 'skipped', reason: 'it needs lib19' };
    return n % 7 === 6 ? { ...plan, state: 'unchanged' } : { ...plan, took: 1 + (n % 5) };
  });
  const directory = await chain('forty', plans);
  const page = await inBrowser(join(directory, 'report.html'));
  t.is(page.match(/<g class="node /g)?.length, 40);
  t.regex(page, /<g class="node failed[^>]*><a href="lib30-1-1\/report\.html"><title>lib30-1-1</);
  t.regex(page, /33 built, 5 unchanged, 1 failed, 1 skipped/);
  const [, path = ''] = /<p id="critical">(.*?)<\/p>/s.exec(page) ?? [];
  const names = [...path.matchAll(/<a href="(lib\d+)-1-1\/report\.html">/g)].map(([, of]) => of);
  t.deepEqual(names, ['lib1', 'lib2', 'lib4', 'lib9', 'lib19', 'lib38']);
  t.regex(path, /^Critical path, 24\.0 s: /);
  t.regex(
    page,
    /<b>src\/a\.c:12:5<\/b> expected ‘;’ <a href="lib30-1-1\/report\.html#build\.log:3">/,
  );
  const bars = [...page.matchAll(/data-start="([\d.]+)"/g)].map(([, start]) => Number(start));
  t.deepEqual(
    bars,
    bars.toSorted((a, b) => a - b),
    'by time',
  );
  const [, again = ''] = /<pre class="command">(.*?)<\/pre>/s.exec(page) ?? [];
  t.regex(again, /^kiln build --chain --jobs 4 --continue -r debian-build .*--define .*&lt;img/);
  t.regex(again, / --resultdir \/out .* \/srv\/lib0-1-1\.src\.rpm .* \/srv\/lib39-1-1\.src\.rpm$/);
  const edges = page.match(/class="edge /g)?.length ?? 0;
  t.true(edges > 37 && edges < 78, `${edges} edges: those that others imply are left out`);
});

test('the critical path is the longest by time, not by number', async (t) => {
  const directory = await chain('path', [
    { name: 'app', needs: ['quick3', 'slow'], took: 2, at: 31 },
    { name: 'quick3', needs: ['quick2'], took: 1, at: 2 },
    { name: 'quick2', needs: ['quick1'], took: 1, at: 1 },
    { name: 'quick1', took: 1 },
    { name: 'slow', took: 30 },
    { name: 'alone', took: 31 },
    { name: 'old', took: 500, state: 'unchanged', needs: ['app'] },
    { name: 'one', needs: ['other'], took: 1 },
    { name: 'other', needs: ['one'], took: 1 },
  ]);
  const page = readFileSync(join(directory, 'report.html'), 'utf8');
  const [, path = ''] = /<p id="critical">(.*?)<\/p>/s.exec(page) ?? [];
  t.is(path.replace(/<[^>]*>/g, ''), 'Critical path, 32.0 s: slow (30.0 s) → app (2.0 s)');
});

test.serial('foreign names, reasons and logs bring neither markup nor scripts', async (t) => {
  const name = EVIL.replaceAll('/', '_');
  const directory = await chain('evil', [
    { name, needs: ['../../up', EVIL], state: 'failed', took: 1, reason: EVIL },
    { name: '../../up', needs: [name], reason: EVIL, state: 'skipped' },
    { name: '__proto__', took: 1 },
    { name: EVIL, took: 1 },
    { name: '\ud800', took: 0, state: 'unchanged' },
  ]);
  const page = await inBrowser(join(directory, 'report.html'));
  t.notRegex(page, /<img/);
  t.notRegex(page, /<title>broken/);
  t.is(page.match(/<script/g)?.length, 2, 'the samples, of which there are none, and the script');
  t.notRegex(page, /href="[^"#]*\.\./);
  t.regex(page, /Content-Security-Policy" content="default-src 'none'; script-src 'sha256-/);
});

test('links in the result folder are not followed', async (t) => {
  const directory = await chain('links', [{ name: 'linked', state: 'failed', took: 1 }]);
  const elsewhere = join(folder, 'elsewhere');
  mkdirSync(elsewhere);
  writeFileSync(join(elsewhere, 'build.log'), 'secret.c:1:1: error: secret\n');
  writeFileSync(join(elsewhere, 'report.html'), 'x\n');
  rmSync(join(directory, 'linked'), { recursive: true });
  symlinkSync(elsewhere, join(directory, 'linked'));
  const page = readFileSync(await renewReport(ownPath(directory), owner), 'utf8');
  t.notRegex(page, /secret|linked\/report/);
});

test('kiln report makes the same page again, and refuses a broken chain.json', async (t) => {
  const farm = { id: 'f1', workers: { 'a-1-1': 'machine-seven' } };
  const directory = await chain('again', [{ name: 'a-1-1', took: 1 }], { farm });
  const path = join(directory, 'report.html');
  const first = readFileSync(path, 'utf8');
  rmSync(path);
  const kiln = join(import.meta.dirname, '../../bin/kiln');
  const env = { ...process.env, KILN_STATE: join(folder, 'state') };
  t.is(execFileSync(kiln, ['report', directory], { env, encoding: 'utf8' }).trim(), path);
  t.is(readFileSync(path, 'utf8'), first);
  t.regex(first, /<th>machine<\/th>(?:.|\n)*<td>machine-seven<\/td>/);
  for (const text of ['{', '{"members": 7}', '[]']) {
    writeFileSync(join(directory, 'chain.json'), text);
    await t.throwsAsync(renewReport(ownPath(directory), owner), { code: 'E_RESULT' });
  }
});
