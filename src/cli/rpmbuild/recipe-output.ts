import { basename } from 'node:path';
import type { RecipeHooks, RecipeReport, StepEvent } from '../../jobs/recipe/request.ts';
import type { Caller } from '../caller/caller.ts';
import { imageProgress, type ProgressLine } from '../images/image-progress.ts';
import { printEgressRefusals } from '../output/egress-refusals.ts';
import { printError } from '../output/errors.ts';
import { LogView } from '../output/print.ts';

/** How many lines of a failed step are repeated at the end. */
const LAST_LINES = 12;
/** How many lines of a failed step's command are shown. */
const COMMAND_LINES = 8;

/** Shows a recipe's build: its steps' output on stdout, kiln's messages on stderr. */
export class RecipeOutput implements Disposable {
  readonly hooks: Omit<RecipeHooks, 'signal'>;
  readonly #name: string;
  readonly #quiet: boolean;
  readonly #progress: ProgressLine;
  readonly #caller: Caller;
  #view: LogView | undefined;

  constructor(path: string, quiet: boolean, caller: Caller) {
    this.#caller = caller;
    this.#progress = imageProgress(caller.stderr);
    this.#name = basename(path);
    this.#quiet = quiet;
    this.hooks = {
      onImageProgress: this.#progress.report,
      onSourceProgress: this.#progress.report,
      onWarning: ({ message }) => caller.stderr.say(`kiln: warning: ${message}\n`),
      onOutput: (chunk) => {
        if (!quiet) this.#log().write(chunk);
      },
      onStep: (step) => this.#step(step),
    };
  }

  /** Made with the first output, because Node takes a millisecond to make the stream. */
  #log(): LogView {
    this.#view ??= new LogView(this.#caller.stdout);
    return this.#view;
  }

  /** Ends the changing line, because other text follows. */
  interrupt(): void {
    this.#progress[Symbol.dispose]();
  }

  /** Prints the outcome. */
  finish(report: RecipeReport): void {
    this.#view?.[Symbol.dispose]();
    this.interrupt();
    const { failedStep, failure, collection, limitHit, kept, sandbox } = report;
    if (failedStep !== undefined) {
      if (failedStep.command !== undefined) {
        const lines = failedStep.command.trim().split('\n');
        for (const line of lines.slice(0, COMMAND_LINES)) this.#caller.stderr.say(`  $ ${line}\n`);
        if (lines.length > COMMAND_LINES) this.#caller.stderr.say('  $ …\n');
      }
      for (const line of failedStep.lastLines.slice(-LAST_LINES)) {
        this.#caller.stderr.say(`  | ${line}\n`);
      }
    }
    if (limitHit !== null && limitHit !== 'timeout' && limitHit !== 'stall') {
      this.#caller.stderr.say(`kiln: the limit of ${limitHit} was reached\n`);
    }
    if (failure !== undefined) printError(failure, this.#caller.stderr);
    printEgressRefusals(report.egress ?? [], this.#caller.stderr);
    const { resultDirectory } = report.request;
    for (const { path, type } of collection?.artifacts ?? []) {
      if (type === 'file') this.#caller.stderr.say(`kiln: ${resultDirectory}/${path}\n`);
    }
    if (kept) this.#caller.stderr.say(`kiln: kept as ${sandbox}: kiln shell ${sandbox}\n`);
    if (failure === undefined) {
      const last = report.phases.at(-1);
      const seconds = (((last?.start ?? 0) + (last?.duration ?? 0)) / 1000).toFixed(1);
      this.#caller.stderr.say(`kiln: ${this.#name}: done after ${seconds} s\n`);
    }
  }

  #step({ name, number, count, event, milliseconds = 0 }: StepEvent): void {
    this.interrupt();
    const title = name === String(number) ? '' : `: ${name}`;
    const step = `kiln: step ${number} of ${count}${title}`;
    if (event === 'start') this.#caller.stderr.say(`${step}\n`);
    else if (this.#quiet) {
      this.#caller.stderr.say(`${step}: ${event}, ${(milliseconds / 1000).toFixed(1)} s\n`);
    }
  }

  [Symbol.dispose](): void {
    this.interrupt();
  }
}
