import { basename } from 'node:path';
import type { RecipeHooks, RecipeReport, StepEvent } from '../build/recipe/request.ts';
import { printError } from './errors.ts';
import { imageProgress } from './image-progress.ts';

/** Lines of a failed step that are said once more at the end. */
const LAST_LINES = 12;
/** Lines of a failed step's command. */
const COMMAND_LINES = 8;

/** Shows a recipe's build: what its steps write on stdout, everything of kiln's own on stderr. */
export class RecipeOutput implements Disposable {
  readonly hooks: Omit<RecipeHooks, 'signal'>;
  readonly #name: string;
  readonly #quiet: boolean;
  readonly #progress = imageProgress();

  constructor(path: string, quiet: boolean) {
    this.#name = basename(path);
    this.#quiet = quiet;
    this.hooks = {
      onImageProgress: this.#progress.report,
      onSourceProgress: this.#progress.report,
      onWarning: ({ message }) => process.stderr.write(`kiln: warning: ${message}\n`),
      onOutput: (chunk) => {
        if (!quiet) process.stdout.write(chunk);
      },
      onStep: (step) => this.#step(step),
    };
  }

  /** Something else has its say. */
  interrupt(): void {
    this.#progress[Symbol.dispose]();
  }

  /** What came of it. */
  finish(report: RecipeReport): void {
    this.interrupt();
    const { failedStep, failure, collection, limitHit, kept, box } = report;
    if (failedStep !== undefined) {
      if (failedStep.command !== undefined) {
        const lines = failedStep.command.trim().split('\n');
        for (const line of lines.slice(0, COMMAND_LINES)) process.stderr.write(`  $ ${line}\n`);
        if (lines.length > COMMAND_LINES) process.stderr.write('  $ …\n');
      }
      for (const line of failedStep.lastLines.slice(-LAST_LINES)) {
        process.stderr.write(`  | ${line}\n`);
      }
    }
    if (limitHit !== null && limitHit !== 'timeout' && limitHit !== 'stall') {
      process.stderr.write(`kiln: the limit of ${limitHit} was reached\n`);
    }
    if (failure !== undefined) printError(failure);
    const { resultDirectory } = report.request;
    for (const { path, type } of collection?.artifacts ?? []) {
      if (type === 'file') process.stderr.write(`kiln: ${resultDirectory}/${path}\n`);
    }
    if (kept) process.stderr.write(`kiln: kept as ${box}: kiln shell ${box}\n`);
    if (failure === undefined) {
      const last = report.phases.at(-1);
      const seconds = (((last?.start ?? 0) + (last?.duration ?? 0)) / 1000).toFixed(1);
      process.stderr.write(`kiln: ${this.#name}: done after ${seconds} s\n`);
    }
  }

  #step({ name, number, count, event, milliseconds = 0 }: StepEvent): void {
    this.interrupt();
    const title = name === String(number) ? '' : `: ${name}`;
    const step = `kiln: step ${number} of ${count}${title}`;
    if (event === 'start') process.stderr.write(`${step}\n`);
    else if (this.#quiet) {
      process.stderr.write(`${step}: ${event}, ${(milliseconds / 1000).toFixed(1)} s\n`);
    }
  }

  [Symbol.dispose](): void {
    this.interrupt();
  }
}
