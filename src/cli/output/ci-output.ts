import { basename } from 'node:path';
import { writeText } from '../../artifacts/staging.ts';
import { reasonOf } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import type { ChainMemberReport, ToldChain } from '../../jobs/chain/request.ts';
import { resultOfBuild } from '../../jobs/rpmbuild/outcome/finish.ts';
import type { BuildReport } from '../../jobs/rpmbuild/outcome/report.ts';
import { mayBeginPart, partBegunBy } from '../../jobs/rpmbuild/rpmbuild.ts';
import type { CiChoice } from '../../options/sandbox.ts';
import { codeQuality, LogReader } from '../../report/ci/findings.ts';
import {
  ANNOTATIONS_MAX,
  type ChainCase,
  type CiProvider,
  chainSummary,
  ciProvider,
  JUNIT_FILE,
  junitXml,
  type SuiteResult,
  summary,
} from '../../report/ci/provider.ts';
import type { Result } from '../../result/schema.ts';
import type { Caller } from '../caller/caller.ts';
import { printWarning } from './errors.ts';
import { LogView, plainText } from './print.ts';

/** The name in GitLab's documentation. */
const CODE_QUALITY_FILE = 'gl-code-quality-report.json';

/** What it writes into the result directory. */
export const CI_FILES = [JUNIT_FILE, CODE_QUALITY_FILE];

/** GitHub's file for the summary of a step. */
const SUMMARY = 'GITHUB_STEP_SUMMARY';

/** A package can write any number of lines that begin a part. */
const GROUPS_MAX = 100;

const LINE_END = 0x0a;

/** Characters of a line that are looked at. */
const LINE_MAX = 100;

/** What a CI service is told while packages are built, and afterwards. */
export class CiOutput implements Disposable {
  readonly #provider: CiProvider;
  readonly #caller: Caller;
  readonly #logs = new Map<string, LogReader>();
  readonly #view: LogView;
  #open: string | undefined;
  #groups = 0;
  /** The beginning of a line, which may begin a part. */
  #held = Buffer.alloc(0);
  #isLineOpen = false;

  private constructor(provider: CiProvider, caller: Caller) {
    this.#provider = provider;
    this.#caller = caller;
    this.#view = new LogView(() => caller.stdout);
  }

  /** Undefined where no service is to be told anything. */
  static for(choice: CiChoice, caller: Caller): CiOutput | undefined {
    // Its own variables tell which service it is, also those of a user's.
    const known = ['GITHUB_ACTIONS', 'GITLAB_CI'].map((name) => [name, caller.variable(name)]);
    const provider = ciProvider(choice, Object.fromEntries(known));
    if (provider === undefined) return undefined;
    caller.service = provider.name;
    return new CiOutput(provider, caller);
  }

  /** Shows more of the log of the one package, in groups by its own lines. */
  show(chunk: Buffer): void {
    const bytes = Buffer.concat([this.#held, chunk]);
    let shown = 0;
    let at = this.#isLineOpen ? bytes.indexOf(LINE_END) + 1 || bytes.length : 0;
    this.#isLineOpen &&= at === bytes.length && bytes.at(-1) !== LINE_END;
    while (at < bytes.length) {
      const end = bytes.indexOf(LINE_END, at) + 1;
      const line = bytes.toString('latin1', at, Math.min(end || bytes.length, at + LINE_MAX));
      this.#isLineOpen = end === 0 && !mayBeginPart(line);
      if (end === 0 && !this.#isLineOpen) break;
      const part = partBegunBy(line)?.phase;
      if (part !== undefined && part !== this.#open && this.#groups < GROUPS_MAX) {
        this.#view.write(bytes.subarray(shown, at));
        shown = at;
        this.#enter(part);
      }
      at = end || bytes.length;
    }
    this.#view.write(bytes.subarray(shown, at));
    this.#held = Buffer.from(bytes.subarray(at));
  }

  #enter(part: string): void {
    this.#leave();
    this.#caller.stdout.write(this.#provider.group(part));
    this.#open = part;
    this.#groups++;
  }

  [Symbol.dispose](): void {
    this.#leave();
  }

  /** Ends the log, or a part of it. */
  #leave(): void {
    this.#view[Symbol.dispose]();
    if (this.#open !== undefined) this.#caller.stdout.write(this.#provider.endGroup(this.#open));
    this.#open = undefined;
  }

  /** Reads what a command writes. */
  reader(): (chunk: Buffer, stream: 'stdout' | 'stderr') => void {
    return (chunk, stream) => {
      this.read(stream, '', chunk);
      if (stream === 'stdout') this.#isLineOpen = chunk.at(-1) !== LINE_END;
    };
  }

  /** Reads more of a package's log. @param spec what a line of rpm's that names no file is about */
  read(name: string, spec: string, chunk: Buffer): void {
    this.#logOf(name, spec).push(chunk);
  }

  /** A package of a chain is built once more: what its log said before does not count. */
  restart(name: string): void {
    this.#logs.delete(name);
  }

  async finishBuild(report: BuildReport): Promise<void> {
    this.#view.write(this.#held);
    this.#held = Buffer.alloc(0);
    this.#leave();
    await this.#finish(report.nvr ?? report.name, this.#resultOf(report), report.resultDirectory);
  }

  /** @param directory where its results are, if it has any */
  async finishRun(result: Result, directory: HeldPath | undefined): Promise<void> {
    // GitHub takes a command at the beginning of a line only.
    if (this.#isLineOpen && this.#provider.name === 'github') this.#caller.stdout.write('\n');
    const { argv } = result.request;
    const name = basename(String(Array.isArray(argv) ? argv[0] : argv));
    await this.#finish(name, withCommandFailure(result), directory);
  }

  async #finish(name: string, result: Result, directory: HeldPath | undefined): Promise<void> {
    const { failure } = result;
    this.#annotate(failure === null ? [] : [[`${name}: ${failure.phase}`, failure.message]]);
    const logs = [...this.#logs.values()];
    const suite = { name, result, tests: logs.flatMap((log) => log.tests) };
    const findings = logs.flatMap((log) => log.findings);
    if (directory !== undefined) await this.#write(directory, junitXml([suite]), findings);
    await this.#summarise(summary(result));
  }

  async finishChain(members: readonly ChainMemberReport[], directory: HeldPath): Promise<void> {
    const results = members.flatMap(({ name, report }) =>
      report === undefined ? [] : [[name, this.#resultOf(report)] as const],
    );
    await this.finishMembers(members, new Map(results), directory);
  }

  /** @param results of the packages that were built in this run, by name */
  async finishMembers(
    members: ToldChain['members'],
    results: ReadonlyMap<string, SuiteResult>,
    directory: HeldPath,
  ): Promise<void> {
    const cases = members.map(caseOf);
    this.#annotate(
      cases
        .filter(({ outcome }) => outcome === 'failed')
        .map(({ name, reason }) => [name, reason] as const),
    );
    const suites = members.flatMap(({ name }) => {
      const result = results.get(name);
      const tests = this.#logs.get(name)?.tests ?? [];
      return result === undefined ? [] : [{ name, result, tests }];
    });
    const findings = [...this.#logs.values()].flatMap((log) => log.findings);
    await this.#write(directory, junitXml(suites, cases), findings);
    await this.#summarise(chainSummary(cases));
  }

  /** With the caller's names. */
  #resultOf(report: BuildReport): Result {
    return resultOfBuild(report, (value) => this.#caller.paths.renamed(value));
  }

  #logOf(name: string, spec: string): LogReader {
    const log = this.#logs.get(name) ?? new LogReader(spec);
    this.#logs.set(name, log);
    return log;
  }

  /** Of each severity the service shows few, so what failed comes first. */
  #annotate(failures: readonly (readonly [title: string, message: string])[]): void {
    const logs = [...this.#logs.values()];
    const findings = logs.flatMap((log) => log.findings);
    const found = (wanted: 'error' | 'warning') =>
      findings
        .filter(({ severity }) => severity === wanted)
        .map((finding) => this.#provider.annotate(finding));
    const tests = logs
      .flatMap((log) => log.tests)
      .filter(({ outcome }) => outcome === 'failed')
      .map(({ name }) => this.#provider.failed('%check', `${name} failed`));
    const failed = failures.map(([title, message]) => this.#provider.failed(title, message));
    for (const lines of [[...failed, ...found('error'), ...tests], found('warning')]) {
      for (const line of lines.slice(0, ANNOTATIONS_MAX)) {
        this.#caller.stdout.write(plainText(line));
      }
    }
  }

  async #write(
    directory: HeldPath,
    junit: string,
    findings: Parameters<typeof codeQuality>[0],
  ): Promise<void> {
    const { ids } = this.#caller;
    await writeText(directory, JUNIT_FILE, junit, ids);
    await writeText(directory, CODE_QUALITY_FILE, codeQuality(findings), ids);
  }

  /** Appends Markdown to the file that GitHub names. */
  async #summarise(text: string): Promise<void> {
    const path = this.#caller.variable(SUMMARY);
    if (this.#provider.name !== 'github' || !path) return;
    try {
      await this.#caller.paths.write(path, 'more', plainText(text));
    } catch (error) {
      const reason = reasonOf(error);
      const message = `the summary of the step cannot be written: ${reason}`;
      printWarning({ code: 'no-summary', message }, this.#caller.stderr);
    }
  }
}

/** To a service a command that fails is a failure, which it is not to kiln. */
function withCommandFailure({ failure, exit, limitHit, ...result }: Result): Result {
  const how =
    exit === null || 'signal' in exit ? `was ended by ${exit?.signal}` : `exited with ${exit.code}`;
  const limit = limitHit === null ? '' : `: the limit of ${limitHit} was reached`;
  const isFine = exit === null || ('code' in exit && exit.code === 0);
  const own = { code: 'command', message: `it ${how}${limit}`, phase: 'command' };
  return {
    ...{ ...result, exit, limitHit },
    failure: failure ?? (isFine ? null : { ...own, causes: [], lastLines: [] }),
  };
}

function caseOf({ name, state, reason, durationMs }: ToldChain['members'][number]): ChainCase {
  const isDone = state === 'built' || state === 'unchanged';
  const outcome = isDone ? 'passed' : state === 'failed' ? 'failed' : 'skipped';
  return { name, outcome, durationMs, state, reason: reason ?? '' };
}

/** What annotations call a spec: its path in the checkout, where it lies in one. */
export function specPath(path: string, caller: Caller): string {
  const inside = path.startsWith('/') ? path.replace(`${caller.cwd()}/`, '') : path;
  return inside.startsWith('/') || inside.startsWith('..') ? basename(inside) : inside;
}
