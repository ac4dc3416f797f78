/** report.html at the widths of a telephone, a tablet and a large screen, light and dark: nothing is cut off. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import axe from 'axe-core';
import { ownPath } from '../../src/host/files/held.ts';
import { renewReport } from '../../src/report/write.ts';
import { inViews } from '../support/chromium.ts';

const PATIENCE = Number(process.env.KILN_TEST_PATIENCE ?? 1);
const VIEWS = [400, 800, 1600].flatMap((width) =>
  (['light', 'dark'] as const).map((scheme) => ({ width, scheme })),
);
/** What axe-core finds: names and roles for screen readers, contrast, what a keyboard reaches. */
const AXE = `${axe.source};
axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) =>
  violations.map(({ id, nodes }) => id + ': ' + nodes.slice(0, 3).map(({ html, failureSummary }) =>
    html.slice(0, 200) + ' ' + failureSummary.slice(0, 200)).join(' | ')))`;

/** On paper nothing scrolls, folds or is pressed: what is hidden there, and what is to be there. */
const PRINTED = `({
  buttons: [...document.querySelectorAll('button, input, select')].filter((each) => each.getClientRects().length > 0).length,
  folded: [...document.querySelectorAll('details')].filter((each) => !each.lastElementChild.checkVisibility()).length,
  cause: document.querySelector('#cause')?.getClientRects().length ?? 0,
  wide: Math.max(0, document.documentElement.scrollWidth - innerWidth),
})`;

const LONG = `${'verylong'.repeat(24)}-1-1`;
const folder = mkdtempSync(join(tmpdir(), 'kiln-views-'));
const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

test.after.always(() => rmSync(folder, { recursive: true, force: true }));

/** What is outside of the window and of all that scrolls, whether it is said that the graph scrolls, and colours. */
const LOOK = `(() => {
  const scrolls = (element) => {
    for (let at = element.parentElement; at !== null; at = at.parentElement) {
      if (at !== document.body && getComputedStyle(at).overflowX !== 'visible' && at !== document.documentElement) return true;
    }
    return false;
  };
  const cut = [...document.body.querySelectorAll('*')]
    .filter((element) => element.getClientRects().length > 0)
    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !scrolls(element))
    .map((element) => element.tagName + '.' + element.className + ' ' + element.textContent.slice(0, 40));
  const graph = document.querySelector('.graph');
  const note = document.querySelector('.scrolls');
  return {
    cut,
    wide: document.documentElement.scrollWidth - innerWidth,
    ground: getComputedStyle(document.body).backgroundColor,
    causeFirst: document.querySelector('main section')?.id,
    noteIsRight: graph === null ||
      note.hidden === (graph.scrollWidth <= graph.clientWidth && graph.scrollHeight <= graph.clientHeight),
    searchRows: new Set([...document.querySelectorAll('[type=search], .previous, .next')].map((element) => {
      const { top, bottom } = element.getBoundingClientRect();
      return Math.round((top + bottom) / 4);
    })).size,
    unnamed: [...document.querySelectorAll('button, input, select')]
      .filter((element) => element.getClientRects().length > 0)
      .filter((element) => !(element.textContent.trim() || element.getAttribute('aria-label')))
      .map((element) => element.outerHTML.slice(0, 80)),
  };
})()`;

interface Seen {
  readonly cut: readonly string[];
  readonly wide: number;
  readonly ground: string;
  readonly causeFirst: string;
  readonly noteIsRight: boolean;
  readonly searchRows: number;
  readonly unnamed: readonly string[];
}

async function look(t: import('ava').ExecutionContext, path: string): Promise<void> {
  const seen = await inViews<Seen>(path, VIEWS, LOOK);
  for (const [at, { cut, wide, causeFirst, noteIsRight, searchRows, unnamed }] of seen.entries()) {
    const { width, scheme } = VIEWS[at]!;
    t.deepEqual(cut, [], `${width} ${scheme}`);
    t.true(wide <= 0, `${width} ${scheme}: the page is ${wide} pixels too wide`);
    t.is(causeFirst, 'cause');
    t.true(noteIsRight, `${width}: whether the graph scrolls`);
    t.true(searchRows <= 1, `${width}: the search and its buttons are not in one row`);
    t.deepEqual(unnamed, []);
  }
  const accessible = [VIEWS[0]!, VIEWS[3]!, VIEWS[4]!];
  for (const [at, found] of (await inViews<readonly string[]>(path, accessible, AXE)).entries()) {
    t.deepEqual(found, [], `${accessible[at]?.width} ${accessible[at]?.scheme}`);
  }
  const [printed] = await inViews(path, [{ width: 800, scheme: 'light', isPrint: true }], PRINTED);
  t.deepEqual(printed, { buttons: 0, folded: 0, cause: 1, wide: 0 });
  t.is(new Set(seen.map(({ ground }) => ground)).size, 2, 'light and dark differ');
}

test.serial('a chain of forty packages with long names fits every window', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const directory = join(folder, 'chain');
  mkdirSync(directory);
  const member = (n: number) => ({
    ...{ name: n === 7 ? LONG : `lib${n}-1-1`, source: `/srv/${LONG}.src.rpm` },
    ...{
      state: n === 30 ? 'failed' : n === 39 ? 'skipped' : 'built',
      reason: n < 39 ? null : LONG,
    },
    needs:
      n < 2
        ? []
        : [{ member: n === 14 ? LONG : `lib${n >> 1}-1-1`, capabilities: [`${LONG}-devel`] }],
    packages: [{ file: `${LONG}.rpm` }],
    ...{ exitStatus: n === 30 ? 1 : 0, failedPhase: n === 30 ? 'check' : null },
    failure: n === 30 ? { code: 'E_BUILD_FAILED', message: `${LONG} failed`, hint: LONG } : null,
    lastLines: n === 30 ? [LONG.repeat(3)] : [],
  });
  const chain = {
    ...{ startedAt: '2026-11-28T10:00:00.000Z', durationMs: 120_000, exitStatus: 1, failure: null },
    request: { image: LONG, jobs: 4, build: { image: 'debian-build' } },
    members: Array.from({ length: 40 }, (_, n) => member(n)),
  };
  writeFileSync(join(directory, 'chain.json'), JSON.stringify(chain));
  await look(t, await renewReport(ownPath(directory), owner));
});

test.serial('a build with a log of 200,000 lines and long names fits every window', async (t) => {
  t.timeout(180_000 * PATIENCE);
  const directory = join(folder, 'build');
  mkdirSync(directory);
  const line = (n: number) => (n % 1000 === 0 ? `${LONG.repeat(4)} error: ${n}` : `line ${n}`);
  const log = Array.from({ length: 200_000 }, (_, n) => line(n)).join('\n');
  writeFileSync(join(directory, 'build.log'), `${log}\n`);
  const result = {
    ...{ version: 1, kiln: '0.1.0', id: 'e0fa632c6b', startedAt: '2026-11-24T18:16:54.678Z' },
    ...{ durationMs: 1188.4, exitStatus: 1, exit: { code: 1 }, limitHit: null },
    failure: {
      ...{ code: 'E_BUILD_FAILED', message: `%check of ${LONG} failed`, phase: 'check' },
      ...{ causes: [LONG], lastLines: [`+ echo '${LONG}'`, LONG.repeat(3)], hint: LONG },
    },
    request: { image: LONG, source: { kind: 'srpm', path: `/srv/${LONG}.src.rpm` } },
    ...{ planDigest: '0'.repeat(64), image: { id: '1'.repeat(64), name: LONG }, policy: null },
    phases: ['image', 'dependencies', 'image', 'check'].map((name, at) => ({
      ...{ name, startMs: at * 100, durationMs: 90 },
    })),
    resources: { cpuMs: 900 },
    artifacts: [
      {
        ...{ path: `${LONG}.rpm`, source: `/tmp/${LONG}.rpm`, type: 'file', size: 1 },
        ...{ sha256: '2'.repeat(64), mode: '0644', mtime: '2026-11-24T18:16:54.678Z' },
      },
    ],
    warnings: [{ code: 'link-outside', message: LONG }],
    build: {
      ...{ name: LONG, nvr: LONG, base: null, buildRequires: [LONG, `${LONG}(x86-64)`] },
      ...{ packages: [], sourcePackage: null, kept: false },
    },
  };
  writeFileSync(join(directory, 'result.json'), JSON.stringify(result));
  await look(t, await renewReport(ownPath(directory), owner));
});
