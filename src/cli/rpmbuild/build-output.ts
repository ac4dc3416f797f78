import type { BuildHooks, BuildReport } from '../../jobs/rpmbuild/outcome/report.ts';
import { resultOfBuild } from '../../jobs/rpmbuild/outcome/result.ts';
import { type CiChoice, ciProvider } from '../../report/ci/provider.ts';
import type { Caller } from '../caller/caller.ts';
import { imageProgress } from '../images/image-progress.ts';
import { CiOutput } from '../output/ci-output.ts';
import { printEgressRefusals } from '../output/egress-refusals.ts';
import { printError } from '../output/errors.ts';
import { LogTail } from '../output/log-tail.ts';
import { LogView } from '../output/print.ts';

/** Parts that get a line when they begin; the others are over at once. */
const TOLD: ReadonlySet<string> = new Set([
  'prep',
  'compile',
  'install',
  'check',
  'package',
  'dynamic-buildrequires',
]);

/** Whether a part of a build works on the source: all that it takes from the caller has been read. */
export function isAtWork(phase: string): boolean {
  return TOLD.has(phase);
}

/** How many differences of two builds are shown; result.json has all. */
const DIFFERENCES = 30;

/** How a build is shown. */
interface BuildOutputOptions {
  readonly quiet: boolean;
  readonly ci: CiChoice;
  /** The source's name. */
  readonly source: string;
  /** Called whenever a part {@link isAtWork}. */
  readonly begin?: () => void;
}

/** Shows a build on the terminal: its log on stdout, kiln's messages on stderr. */
export class BuildOutput {
  readonly hooks: BuildHooks;
  readonly #caller: Caller;
  readonly #ci: CiOutput | undefined;
  #view: LogView | undefined;
  readonly #tail = new LogTail();

  constructor({ quiet, ci, source, begin }: BuildOutputOptions, caller: Caller) {
    this.#caller = caller;
    const provider = ciProvider(ci, caller.environment);
    this.#ci = provider && new CiOutput(provider, source, caller);
    const progress = imageProgress(caller.stderr);
    this.hooks = {
      onImageProgress: progress.report,
      onWarning: ({ message }) => caller.stderr.say(`kiln: warning: ${message}\n`),
      onPhase: (phase, event) => {
        if (event === 'start') progress[Symbol.dispose]();
        if (event !== 'start' || !isAtWork(phase)) return;
        begin?.();
        if (this.#ci === undefined || quiet) caller.stderr.say(`kiln: ${phase}\n`);
        else this.#ci.begin(phase);
      },
      onOutput: (log, chunk) => {
        if (log !== 'build.log') return;
        this.#ci?.read(chunk);
        if (quiet) return;
        this.#log().write(chunk);
        this.#tail.push(chunk);
      },
    };
  }

  /** Made with the first output, because Node takes a millisecond to make the stream. */
  #log(): LogView {
    this.#view ??= new LogView(this.#caller.stdout);
    return this.#view;
  }

  /** Whether the reader of stderr has just seen these lines on stdout. */
  #isSeen(lines: readonly string[]): boolean {
    const { stdout, stderr } = this.#caller;
    return (stdout.isTTY || !stderr.isTTY) && this.#tail.has(lines);
  }

  /** Prints the outcome. @throws KilnError E_RESULTDIR where files for a CI service cannot be written */
  async finish(report: BuildReport): Promise<void> {
    this.#view?.[Symbol.dispose]();
    await this.#ci?.finish(resultOfBuild(report), report.resultDirectory);
    const { failure, failedPhase, lastLines, packages, sourcePackage, resultDirectory } = report;
    if (failure !== undefined) {
      for (const line of this.#isSeen(lastLines) ? [] : lastLines) {
        this.#caller.stderr.say(`  | ${line}\n`);
      }
      this.#caller.stderr.say(`kiln: ${report.name}: failed in ${failedPhase}\n`);
      printError(failure, this.#caller.stderr);
    }
    printEgressRefusals(report.egress, this.#caller.stderr);
    for (const difference of report.differences?.slice(0, DIFFERENCES) ?? []) {
      const { package: name, path, what, detail = [] } = difference;
      this.#caller.stderr.say(`  | ${[name, path, what].filter(Boolean).join(': ')}\n`);
      for (const line of detail) this.#caller.stderr.say(`  |   ${line}\n`);
    }
    if (report.differences?.length === 0)
      this.#caller.stderr.say('kiln: both builds are the same\n');
    const made = sourcePackage === undefined ? packages : [sourcePackage, ...packages];
    for (const { file } of made) this.#caller.stderr.say(`kiln: ${resultDirectory}/${file}\n`);
    if (report.kept)
      this.#caller.stderr.say(`kiln: kept as ${report.sandbox}: kiln shell ${report.sandbox}\n`);
  }
}
