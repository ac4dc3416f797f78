import type { BuildHooks, BuildReport } from '../build/report.ts';
import { printError } from './errors.ts';
import { imageProgress } from './image-progress.ts';

/** Parts that are worth a line while they go on; the others are over at once. */
const TOLD = new Set(['prep', 'compile', 'install', 'check', 'package', 'dynamic-buildrequires']);

/** Differences of two builds that are shown; result.json has them all. */
const DIFFERENCES = 30;

/** Shows a build on the terminal: its log on stdout, everything of kiln's own on stderr. */
export class BuildOutput {
  readonly hooks: BuildHooks;

  constructor(quiet: boolean) {
    const progress = imageProgress();
    this.hooks = {
      onImageProgress: progress.report,
      onWarning: ({ message }) => process.stderr.write(`kiln: warning: ${message}\n`),
      onPhase: (phase, event) => {
        if (event === 'start') progress[Symbol.dispose]();
        if (event === 'start' && TOLD.has(phase)) process.stderr.write(`kiln: ${phase}\n`);
      },
      onOutput: (log, chunk) => {
        if (log === 'build.log' && !quiet) process.stdout.write(chunk);
      },
    };
  }

  /** What came of it. */
  finish(report: BuildReport): void {
    const { failure, failedPhase, lastLines, packages, sourcePackage, resultDirectory } = report;
    if (failure !== undefined) {
      for (const line of lastLines) process.stderr.write(`  | ${line}\n`);
      process.stderr.write(`kiln: ${report.name}: failed in ${failedPhase}\n`);
      printError(failure);
    }
    for (const { package: name, path, what } of report.differences?.slice(0, DIFFERENCES) ?? []) {
      process.stderr.write(`  | ${[name, path, what].filter(Boolean).join(': ')}\n`);
    }
    if (report.differences?.length === 0) process.stderr.write('kiln: both builds are the same\n');
    const made = sourcePackage === undefined ? packages : [sourcePackage, ...packages];
    for (const { file } of made) process.stderr.write(`kiln: ${resultDirectory}/${file}\n`);
    if (report.kept)
      process.stderr.write(`kiln: kept as ${report.box}: kiln shell ${report.box}\n`);
  }
}
