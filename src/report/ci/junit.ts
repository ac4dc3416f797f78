/** junit.xml: what a job came to, as CI systems show tests. */
import type { Result } from '../../result/schema.ts';
import { type Html, html } from '../html.ts';
import type { CheckedTest } from './findings.ts';

/** The file's name. */
export const JUNIT_FILE = 'junit.xml';

/** One package, or one job that is none. */
export interface JunitSuite {
  readonly name: string;
  readonly result: Result;
  readonly tests: readonly CheckedTest[];
}

/**
 * The file: a suite for each package, a case for each phase of its build and for each test of its %check. The
 * format has no standard; this is the part of it that Jenkins' schema (junit-10.xsd of its xUnit plugin), GitLab and
 * GitHub's actions agree on.
 */
export function junitXml(suites: readonly JunitSuite[]): string {
  const all = suites.map(suiteOf);
  return `<?xml version="1.0" encoding="UTF-8"?>\n${html`<testsuites name="kiln">${all}</testsuites>`.html}\n`;
}

function suiteOf({ name, result, tests }: JunitSuite): Html {
  const { failure, phases, startedAt, durationMs } = result;
  const failed = failure?.phase;
  const names = phases.map((phase) => phase.name);
  // A failure before the first phase is a case, too.
  const missing = failed === undefined || names.includes(failed) ? [] : [failed];
  const cases = [
    ...phases.map((phase) => phaseCase(name, phase.name, phase.durationMs, result)),
    ...missing.map((phase) => phaseCase(name, phase, 0, result)),
    ...tests.map((test) => testCase(name, test)),
  ];
  const failures =
    names.concat(missing).filter((phase) => phase === failed).length +
    tests.filter(({ outcome }) => outcome === 'failed').length;
  const skipped = tests.filter(({ outcome }) => outcome === 'skipped').length;
  return html`
<testsuite name="${name}" tests="${cases.length}" failures="${failures}" errors="0" skipped="${skipped}" time="${seconds(durationMs)}" timestamp="${startedAt.replace(/\.\d+Z$/, '')}">${cases}
</testsuite>`;
}

function phaseCase(suite: string, name: string, durationMs: number, { failure }: Result): Html {
  const message =
    failure?.phase === name
      ? html`<failure message="${failure.message}" type="${failure.code}">${[...failure.lastLines, failure.hint ?? ''].join('\n')}</failure>`
      : undefined;
  return html`
  <testcase classname="${suite}" name="${name}" time="${seconds(durationMs)}">${message}</testcase>`;
}

function testCase(suite: string, { name, outcome }: CheckedTest): Html {
  const how = {
    passed: undefined,
    failed: html`<failure message="the test failed; see build.log" type="check"></failure>`,
    skipped: html`<skipped/>`,
  }[outcome];
  return html`
  <testcase classname="${suite}.check" name="${name}">${how}</testcase>`;
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(3);
}
