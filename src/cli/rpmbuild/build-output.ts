import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { KilnError } from '../../errors.ts';
import type { BuildHooks, BuildReport } from '../../jobs/rpmbuild/outcome/report.ts';
import type { CiChoice } from '../../options/sandbox.ts';
import type { Caller } from '../caller/caller.ts';
import { CiOutput } from '../output/ci-output.ts';
import { printEgressRefusals, printError, printWarning } from '../output/errors.ts';
import { LogTail, LogView, printLines } from '../output/print.ts';
import { imageProgress } from '../output/progress.ts';

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

const DIFFERENCES = 30;

interface BuildOutputOptions {
  readonly quiet: boolean;
  readonly ci: CiChoice;
  readonly source: string;
  readonly begin?: () => void;
}

/** Tells of a build while it goes on, by its hooks, and what came of it. */
export function buildOutput(
  { quiet, ci: choice, source, begin }: BuildOutputOptions,
  caller: Caller,
) {
  const ci = CiOutput.for(choice, caller);
  const view = new LogView(() => caller.stdout);
  const tail = new LogTail();
  const progress = imageProgress(caller);
  const hooks: BuildHooks = {
    onImageProgress: progress.report,
    onWarning: (warning) => printWarning(warning, caller.stderr),
    onPhase: (phase, event) => {
      if (event === 'start') progress[Symbol.dispose]();
      if (event !== 'start' || !isAtWork(phase)) return;
      begin?.();
      if (!quiet && ci === undefined) caller.stderr.say(`kiln: ${phase}\n`);
    },
    onOutput: (log, chunk) => {
      if (log !== 'build.log') return;
      ci?.read(source, source, chunk);
      if (quiet) return;
      if (ci === undefined) view.write(chunk);
      else ci.show(chunk);
      tail.push(chunk);
    },
  };
  const finish = async (report: BuildReport): Promise<void> => {
    view[Symbol.dispose]();
    await ci?.finishBuild(report);
    const { stdout, stderr } = caller;
    const { failure, failedPhase, lastLines, packages, sourcePackage, resultDirectory } = report;
    if (failure !== undefined) {
      const isSeen = (stdout.isTTY || !stderr.isTTY) && tail.has(lastLines);
      if (!isSeen) printLines(lastLines, stderr);
      stderr.say(`kiln: ${report.nvr ?? report.name} failed in ${failedPhase}\n`);
      printError(failure, stderr, report.exitStatus);
      printWhereToLook(report, caller);
    }
    printEgressRefusals(report.egress, stderr);
    for (const difference of report.differences?.slice(0, DIFFERENCES) ?? []) {
      const { package: name, path, what, detail = [] } = difference;
      const title = [name, path, what].filter(Boolean).join(': ');
      printLines([title, ...detail.map((line) => `  ${line}`)], stderr);
    }
    if (report.differences?.length === 0) stderr.say('kiln: both builds are the same\n');
    const made = sourcePackage === undefined ? packages : [sourcePackage, ...packages];
    for (const { file } of made) stderr.say(`kiln: ${resultDirectory}/${file}\n`);
    if (report.kept) stderr.say(`kiln: kept as ${report.sandbox}: kiln shell ${report.sandbox}\n`);
  };
  const end = () => {
    view[Symbol.dispose]();
    ci?.[Symbol.dispose]();
  };
  return { hooks, finish, [Symbol.dispose]: end };
}

interface Failed {
  readonly sandbox?: string | undefined;
  readonly kept?: boolean | undefined;
  readonly differences?: BuildReport['differences'] | undefined;
  readonly resultDirectory: string | undefined;
  readonly failure?: KilnError | undefined;
}

/** After the message of a failed build: the files that say more, and how to look into a sandbox like its own. */
export function printWhereToLook(
  { resultDirectory, sandbox, kept, failure, differences }: Failed,
  { stderr }: Caller,
): void {
  const isUsable = (directory: string) =>
    failure?.code !== 'E_RESULTDIR_BUSY' &&
    (failure?.code !== 'E_RESULTDIR' || existsSync(join(directory, 'report.html')));
  if (resultDirectory !== undefined && isUsable(resultDirectory))
    stderr.say(`  see ${resultDirectory}/report.html, or the logs beside it\n`);
  const isOver = sandbox === undefined || kept === true || differences !== undefined;
  if (isOver || failure?.code === 'E_INTERRUPTED') return;
  stderr.say('  to look into its sandbox, build it again with --keep, and then: kiln shell ID\n');
}
