/** What a build tells CI services. The formats are held against what the services document. */

import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'ava';
import { codeQuality, LogReader } from '../../src/report/ci/findings.ts';
import { chainSummary, ciProvider, junitXml, summary } from '../../src/report/ci/provider.ts';
import type { Result } from '../../src/result/schema.ts';

const LOG = `Executing(%build): /bin/sh -e
/builddir/build/BUILD/hello-1-build/hello-1/src/a.c:12:5: warning: unused variable ‘x’ [-Wunused-variable]
\u001b[1msrc/b.c:3:1: \u001b[31merror: \u001b[0mexpected ‘;’ before ‘}’ token
src/b.c:3:1: error: expected ‘;’ before ‘}’ token
make[1]: *** [Makefile:7: b.o] Error 1
10:20:30 hello: nothing of interest: error: no
hello.x86_64: W: no-manual-page-for-binary hello
hello.spec:14: E: hardcoded-library-path in /usr/lib/foo
error: line 5: Unknown tag: Foo
PASS: test-one
FAIL: test-two
SKIP: test-three
XFAIL: test-four
 1/2 Test  #1: alpha ............................   Passed    0.01 sec
 2/2 Test  #2: beta .............................***Failed    0.02 sec
ok 1 - gamma
not ok 2 - delta
ok 3 - epsilon # Skip no network
OK 12 tests
`;

const PATIENCE = Number(process.env.KILN_TEST_PATIENCE ?? 1);

function read(text: string, pieces = 1): LogReader {
  const log = new LogReader('hello.spec');
  const bytes = Buffer.from(text);
  const size = Math.ceil(bytes.length / pieces);
  for (let at = 0; at < bytes.length; at += size) log.push(bytes.subarray(at, at + size));
  return log;
}

function result(changes: Partial<Result> = {}): Result {
  return {
    ...{ version: 1, kiln: '0.1.0', id: null, startedAt: '2026-11-24T18:16:54.678Z' },
    ...{ durationMs: 1500, exitStatus: 1, exit: { code: 1 }, limitHit: null },
    failure: {
      ...{ code: 'E_BUILD_FAILED', phase: 'check', causes: [] },
      message: 'a, b: 100%\nfailed',
      lastLines: ['FAIL: test-two', '```', '<b>&"'],
      hint: 'look at build.log',
    },
    ...{ request: {}, planDigest: '0'.repeat(64), image: null, policy: null },
    phases: [
      { name: 'prep', startMs: 0, durationMs: 500 },
      { name: 'check', startMs: 500, durationMs: 1000 },
    ],
    ...{ resources: {}, artifacts: [], warnings: [] },
    ...changes,
  };
}

test('messages of compilers, make, rpmlint and rpm are recognized, each once', (t) => {
  const found = read(LOG).findings.map(
    ({ tool, severity, file, line, column }) => `${tool} ${severity} ${file}:${line}:${column}`,
  );
  t.deepEqual(found, [
    'compiler warning src/a.c:12:5',
    'compiler error src/b.c:3:1',
    'make error Makefile:7:undefined',
    'rpmlint warning hello.x86_64:1:undefined',
    'rpmlint error hello.spec:14:undefined',
    'rpm error hello.spec:5:undefined',
  ]);
  t.deepEqual(read(LOG, 50).findings, read(LOG).findings, 'however it comes');
});

test('rpmlint’s checks of sections, and those in capitals, are recognized', (t) => {
  const said =
    'hello.spec: W: no-%prep-section\nhello.x86_64: W: missing-PT_GNU_STACK-section /a\n';
  t.deepEqual(
    read(said).findings.map(({ message }) => message),
    ['no-%prep-section', 'missing-PT_GNU_STACK-section /a'],
  );
});

test('tests of %check are recognized', (t) => {
  t.deepEqual(
    read(LOG).tests.map(({ name, outcome }) => `${name} ${outcome}`),
    [
      ...['test-one passed', 'test-two failed', 'test-three skipped', 'test-four passed'],
      ...['alpha passed', 'beta failed', 'gamma passed', 'delta failed', 'epsilon skipped'],
    ],
  );
});

test('gcc’s message about a real source is found with its place', (t) => {
  const code = 'int main(void) {\n  return undefined_name;\n}\n';
  let said = '';
  try {
    execFileSync('gcc', ['-x', 'c', '-fsyntax-only', '-'], { input: code, stdio: 'pipe' });
  } catch (error) {
    said = String((error as { stderr: Buffer }).stderr);
  }
  const [found] = read(said).findings;
  t.deepEqual([found?.file, found?.line, found?.column], ['<stdin>', 2, 10]);
});

test('an endless log is read within bounds', (t) => {
  const log = new LogReader('x.spec');
  const line = Buffer.alloc(1 << 20, 'x');
  for (let n = 0; n < 50; n++) log.push(line);
  for (let n = 0; n < 3000; n++) log.push(Buffer.from(`\na.c:${n}:1: error: e${n}\nPASS: t${n}\n`));
  t.is(log.findings.length, 1000);
});

test('lines that almost are a finding, or a test, take no time', (t) => {
  const lines = ['x'.repeat(4096), `ok 1 ${' '.repeat(4000)}x#y`, `not ok 1 -${' #'.repeat(2000)}`];
  const log = Buffer.from(`${lines.join('\n')}\n`.repeat(2000));
  const began = performance.now();
  read(log.toString());
  // A pattern that begins anew at each letter takes a minute.
  t.true(performance.now() - began < 3000 * PATIENCE);
  t.deepEqual(read('ok 1 - one  # SKIP not here\nok 2 two \n').tests, [
    { at: 1, name: 'one', outcome: 'skipped' },
    { at: 2, name: 'two', outcome: 'passed' },
  ]);
});

test('junit.xml is valid XML, and its counts are right', (t) => {
  const evil = `<&"'>\u0000\u001b]0;`;
  const { tests } = read(`${LOG}FAIL: ${evil}\n`);
  const xml = junitXml([
    { name: evil, result: result(), tests },
    { name: 'fine', result: result({ failure: null, exitStatus: 0 }), tests: [] },
  ]);
  const query = (path: string) =>
    execFileSync('xmllint', ['--xpath', path, '-'], { input: xml, encoding: 'utf8' }).trim();
  t.is(query('count(//testsuite)'), '2');
  t.is(query('number(//testsuite[1]/@tests)'), '12');
  t.is(query('count(//testsuite[1]/testcase)'), '12');
  t.is(query('number(//testsuite[1]/@failures)'), query('count(//testsuite[1]//failure)'));
  t.is(query('number(//testsuite[1]/@skipped)'), '2');
  t.is(query('count(//testsuite[2]//failure)'), '0');
  t.regex(query('string(//failure[@type="E_BUILD_FAILED"])'), /FAIL: test-two\n```\n<b>&"/);
});

test('a phase that ran twice is one case of junit.xml', (t) => {
  const phases = [
    { name: 'image', startMs: 0, durationMs: 500 },
    { name: 'image', startMs: 500, durationMs: 250 },
    { name: 'check', startMs: 750, durationMs: 1000 },
  ];
  const xml = junitXml([{ name: 'app', result: result({ phases }), tests: [] }]);
  const cases = [...xml.matchAll(/<testcase classname="app" name="(\w+)" time="([\d.]+)"/g)];
  t.deepEqual(
    cases.map(([, name, time]) => `${name} ${time}`),
    ['image 0.750', 'check 1.000'],
  );
  t.regex(xml, /tests="2" failures="1"/);
});

const CHAIN = [
  { name: 'liba', outcome: 'passed', durationMs: 1500, state: 'built', reason: '' },
  { name: 'app', outcome: 'failed', durationMs: 10, state: 'failed', reason: 'a < b | c' },
  { name: 'other', outcome: 'skipped', durationMs: 0, state: 'skipped', reason: 'it needs app' },
] as const;

/** @returns what xmllint finds wrong by the schema of Jenkins */
function wrongIn(xml: string): string {
  const schema = join(import.meta.dirname, 'junit.xsd');
  const { status, stderr } = spawnSync('xmllint', ['--noout', '--schema', schema, '-'], {
    input: xml,
    encoding: 'utf8',
  });
  return status === 0 ? '' : stderr;
}

test('junit.xml follows the schema of Jenkins, for chains as well', (t) => {
  const { tests } = read(LOG);
  const suites = [{ name: 'app', result: result(), tests }];
  t.is(wrongIn(junitXml(suites)), '');
  const xml = junitXml(suites, CHAIN);
  t.is(wrongIn(xml), '');
  t.regex(wrongIn(xml.replace('<failure', '<failed').replace('</failure', '</failed')), /failed/);
  const query = (path: string) =>
    execFileSync('xmllint', ['--xpath', path, '-'], { input: xml, encoding: 'utf8' }).trim();
  const chain = '//testsuite[@name="chain"]';
  t.is(query(`count(${chain}/testcase)`), '3');
  t.is(query(`string(${chain}/testcase[@name="app"]/failure/@message)`), 'a < b | c');
  t.is(query(`string(${chain}/testcase[@name="other"]/skipped)`), 'it needs app');
  t.is(query(`string(${chain}/@skipped)`), '1');
});

test('a chain’s summary has a row for each package', (t) => {
  const text = chainSummary(CHAIN);
  t.regex(text, /^### chain failed: 1 of 3 packages\n/);
  t.regex(text, /\n\| ` app ` \| failed \| 0\.010 s \| ` a < b {3}c ` \|\n/);
  t.regex(chainSummary(CHAIN.slice(0, 1)), /^### chain succeeded\n/);
});

test('findings of rpm and rpmlint in a spec have its path in the checkout', (t) => {
  const log = new LogReader('packaging/hello.spec');
  log.push(Buffer.from(LOG));
  const files = log.findings.map(({ file }) => file);
  t.deepEqual(files.slice(-3), ['hello.x86_64', 'packaging/hello.spec', 'packaging/hello.spec']);
});

/** The example of GitLab's documentation: https://docs.gitlab.com/ci/testing/code_quality/#code-quality-report-format */
const EXAMPLE = {
  description: "'unused' is assigned a value but never used.",
  check_name: 'no-unused-vars',
  fingerprint: '7815696ecbf1c96e6894b779456d330e',
  severity: 'minor',
  location: { path: 'lib/index.js', lines: { begin: 42 } },
};

/** A value's fields and their types. */
function shape(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return typeof value;
  const fields = Object.entries(value).map(([name, field]) => [name, shape(field)]);
  return Object.fromEntries(fields.sort());
}

test('each issue has the shape of GitLab’s example', (t) => {
  for (const issue of JSON.parse(codeQuality(read(LOG).findings))) {
    t.deepEqual(shape(issue), shape(EXAMPLE));
    t.notRegex(issue.location.path, /^(?:\/|\.\/)/, 'relative to the checkout');
  }
});

test('the code quality report has GitLab’s fields, and keeps fingerprints', (t) => {
  const issues = JSON.parse(codeQuality(read(LOG).findings)) as Record<string, unknown>[];
  t.is(issues.length, 6);
  for (const issue of issues) {
    t.deepEqual(Object.keys(issue).sort(), [
      ...['check_name', 'description', 'fingerprint', 'location', 'severity'],
    ]);
    t.true(['info', 'minor', 'major', 'critical', 'blocker'].includes(String(issue.severity)));
  }
  t.is(issues[0]?.check_name, '-Wunused-variable');
  t.is(new Set(issues.map(({ fingerprint }) => fingerprint)).size, 6);
  const moved = JSON.parse(codeQuality(read(LOG.replace(':12:5:', ':99:5:')).findings));
  t.is(moved[0].fingerprint, issues[0]?.fingerprint);
});

test('GitHub’s commands are escaped as it documents', (t) => {
  const github = ciProvider('auto', { GITHUB_ACTIONS: 'true' })!;
  t.is(github.name, 'github');
  const finding = { at: 1, tool: 'compiler', severity: 'error', file: 'a,b:c.c', line: 3 } as const;
  t.is(
    github.annotate({ ...finding, column: 4, message: '100%\nof' }),
    '::error file=a%2Cb%3Ac.c,line=3,col=4::100%25%0Aof\n',
  );
  t.is(
    github.failed('kiln: check', 'a, b: 100%\nfailed'),
    '::error title=kiln%3A check::a, b: 100%25%0Afailed\n',
  );
});

test('GitLab’s sections begin and end with the same name', (t) => {
  const gitlab = ciProvider('auto', { GITLAB_CI: 'true' })!;
  t.regex(
    gitlab.group('%prep'),
    /^\u001b\[0Ksection_start:\d+:kiln__prep\[collapsed=true\]\r\u001b\[0K%prep\n$/,
  );
  t.regex(gitlab.endGroup('%prep'), /^\u001b\[0Ksection_end:\d+:kiln__prep\r\u001b\[0K\n$/);
  t.is(ciProvider('auto', {}), undefined);
  t.is(ciProvider('none', { GITLAB_CI: 'true' }), undefined);
});

test('a summary is Markdown without markup of strangers', (t) => {
  const text = summary(result());
  t.regex(text, /^### ` kiln ` failed in check/);
  t.regex(text, /\n````\nFAIL: test-two\n```\n<b>&"\n````\n/);
});
