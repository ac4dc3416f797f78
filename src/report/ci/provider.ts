import { counted } from '../../counted.ts';
import type { CiChoice } from '../../options/sandbox.ts';
import type { Result } from '../../result/schema.ts';
import { type Html, html } from '../html.ts';
import type { CheckedTest, Finding } from './findings.ts';

/** Every text ends with a line end. */
export interface CiProvider {
  readonly name: 'github' | 'gitlab';
  group(name: string): string;
  endGroup(name: string): string;
  annotate(finding: Finding): string;
  failed(title: string, message: string): string;
}

/** Annotations of a kind that GitHub shows for one step. */
export const ANNOTATIONS_MAX = 10;

export function ciProvider(
  choice: CiChoice,
  env: Readonly<Record<string, string | undefined>>,
): CiProvider | undefined {
  const means = (name: CiChoice, variable: string) =>
    choice === name || (choice === 'auto' && env[variable] === 'true');
  if (means('github', 'GITHUB_ACTIONS')) return github();
  return means('gitlab', 'GITLAB_CI') ? gitlab() : undefined;
}

/** Workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions */
function github(): CiProvider {
  return {
    name: 'github',
    group: (name) => `::group::${data(name)}\n`,
    endGroup: () => '::endgroup::\n',
    annotate: ({ severity, file, line, column, message }) => {
      const at = column === undefined ? '' : `,col=${column}`;
      return `::${severity} file=${property(file)},line=${line}${at}::${data(message)}\n`;
    },
    failed: (title, message) => `::error title=${property(title)}::${data(message)}\n`,
  };
}

function data(text: string): string {
  return text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A');
}

function property(text: string): string {
  return data(text).replaceAll(':', '%3A').replaceAll(',', '%2C');
}

/** Sections of job logs: https://docs.gitlab.com/ci/jobs/job_logs/#custom-collapsible-sections */
function gitlab(): CiProvider {
  const clear = '\u001b[0K';
  const now = () => Math.floor(Date.now() / 1000);
  const id = (name: string) => `kiln_${name.replace(/[^\w.-]/g, '_')}`;
  return {
    name: 'gitlab',
    group: (name) =>
      `${clear}section_start:${now()}:${id(name)}[collapsed=true]\r${clear}${name}\n`,
    endGroup: (name) => `${clear}section_end:${now()}:${id(name)}\r${clear}\n`,
    annotate: () => '',
    failed: () => '',
  };
}

/** Markdown for GitHub's summary of a step. What strangers wrote stands in code, where nothing is markup. */
export function summary({ failure, build, durationMs, phases, request }: Result): string {
  const name =
    build?.nvr ?? build?.name ?? (Array.isArray(request.argv) ? request.argv.join(' ') : 'kiln');
  const how = failure === null ? 'succeeded' : `failed in ${failure.phase}`;
  const lines = [`### ${code(name)} ${how}`, ''];
  if (failure !== null) {
    lines.push(`${code(failure.message)} (${failure.code})`, '');
    if (failure.lastLines.length > 0) lines.push(...fence(failure.lastLines), '');
    if (failure.hint !== undefined) lines.push(`${code(failure.hint)}`, '');
  }
  const packages = build?.packages ?? [];
  if (packages.length > 0) {
    lines.push('| package | sha256 |', '| --- | --- |');
    for (const { file, sha256 } of packages) lines.push(`| ${code(file)} | \`${sha256}\` |`);
    lines.push('');
  }
  const times = phases.map((phase) => `${phase.name} ${(phase.durationMs / 1000).toFixed(1)} s`);
  lines.push(`${(durationMs / 1000).toFixed(1)} s: ${times.join(', ')}`, '');
  return `${lines.join('\n')}\n`;
}

function code(text: string): string {
  const plain = text.replace(/[\n\r|]/g, ' ').slice(0, 500);
  const ticks = ticksAround(plain, 1);
  return `${ticks} ${plain} ${ticks}`;
}

function fence(lines: readonly string[]): string[] {
  const ticks = ticksAround(lines.join('\n'), 3);
  return [ticks, ...lines, ticks];
}

function ticksAround(text: string, least: number): string {
  const longest = Math.max(0, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  return '`'.repeat(Math.max(least, longest + 1));
}

/** What became of a package of a chain. */
export interface ChainCase {
  readonly name: string;
  readonly outcome: CheckedTest['outcome'];
  readonly durationMs: number;
  readonly state: string;
  readonly reason: string;
}

export function chainSummary(cases: readonly ChainCase[]): string {
  const failed = cases.filter(({ outcome }) => outcome === 'failed').length;
  const rows = cases.map(
    ({ name, state, durationMs, reason }) =>
      `| ${code(name)} | ${state} | ${seconds(durationMs)} s | ${reason === '' ? '' : code(reason)} |`,
  );
  const how =
    failed === 0 ? 'succeeded' : `failed: ${failed} of ${counted(cases.length, 'package')}`;
  const table = ['| package | state | time | why |', '| --- | --- | --- | --- |', ...rows];
  return [`### chain ${how}`, '', ...table, '', ''].join('\n');
}

export const JUNIT_FILE = 'junit.xml';

/** What a suite shows of a result. */
export type SuiteResult = Pick<Result, 'failure' | 'phases' | 'startedAt' | 'durationMs'>;

interface JunitSuite {
  readonly name: string;
  readonly result: SuiteResult;
  readonly tests: readonly CheckedTest[];
}

/**
 * The file: a suite for each package, a case for each phase of its build and for each test of its %check; of a chain
 * also a suite with a case for each package. The
 * format has no standard; this is the part of it that Jenkins' schema (junit-10.xsd of its xUnit plugin), GitLab and
 * GitHub's actions agree on.
 */
export function junitXml(suites: readonly JunitSuite[], chain: readonly ChainCase[] = []): string {
  const all = [...(chain.length === 0 ? [] : [suiteOfChain(chain)]), ...suites.map(suiteOf)];
  return `<?xml version="1.0" encoding="UTF-8"?>\n${html`<testsuites name="kiln">${all}</testsuites>`.html}\n`;
}

function suiteOf({ name, result, tests }: JunitSuite): Html {
  const { failure, phases, startedAt, durationMs } = result;
  const failed = failure?.phase;
  // A phase that ran twice, as the image's does, is one case: services take cases by their names.
  const times = new Map<string, number>();
  for (const phase of phases)
    times.set(phase.name, (times.get(phase.name) ?? 0) + phase.durationMs);
  if (failed !== undefined) times.set(failed, times.get(failed) ?? 0);
  const cases = [
    ...[...times].map(([phase, durationMs]) => phaseCase(name, phase, durationMs, result.failure)),
    ...tests.map((test) => testCase(name, test)),
  ];
  const count = (wanted: CheckedTest['outcome']) =>
    tests.filter(({ outcome }) => outcome === wanted).length;
  const failures = count('failed') + (failed === undefined ? 0 : 1);
  return html`
<testsuite name="${name}" tests="${cases.length}" failures="${failures}" errors="0" skipped="${count('skipped')}" time="${seconds(durationMs)}" timestamp="${startedAt.replace(/\.\d+Z$/, '')}">${cases}
</testsuite>`;
}

function suiteOfChain(chain: readonly ChainCase[]): Html {
  const count = (wanted: ChainCase['outcome']) =>
    chain.filter(({ outcome }) => outcome === wanted).length;
  const cases = chain.map(({ name, outcome, durationMs, reason }) => {
    const how = {
      passed: undefined,
      failed: html`<failure message="${reason}" type="package"></failure>`,
      skipped: html`<skipped>${reason}</skipped>`,
    }[outcome];
    return html`
  <testcase classname="chain" name="${name}" time="${seconds(durationMs)}">${how}</testcase>`;
  });
  const time = chain.reduce((sum, { durationMs }) => sum + durationMs, 0);
  return html`
<testsuite name="chain" tests="${chain.length}" failures="${count('failed')}" errors="0" skipped="${count('skipped')}" time="${seconds(time)}">${cases}
</testsuite>`;
}

function phaseCase(
  suite: string,
  name: string,
  durationMs: number,
  failure: Result['failure'],
): Html {
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
    failed: html`<failure message="the test failed; see its log" type="check"></failure>`,
    skipped: html`<skipped/>`,
  }[outcome];
  return html`
  <testcase classname="${suite}.check" name="${name}">${how}</testcase>`;
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(3);
}
