import type { TextOutput } from '../caller/caller.ts';
import { plainText } from './print.ts';

/** A line that changes on a terminal; disposing removes it. */
export class ChangingLine implements Disposable {
  readonly #to: TextOutput;
  #shown = 0;

  constructor(to: TextOutput) {
    this.#to = to;
  }

  show(text: string): void {
    const line = `kiln: ${plainText(text).replace(/[\t\n]/g, ' ')}`.slice(0, this.#to.columns - 1);
    this.#to.write(`\r${line.padEnd(this.#shown)}`);
    this.#shown = line.length;
  }

  [Symbol.dispose](): void {
    if (this.#shown > 0) this.#to.write(`\r${' '.repeat(this.#shown)}\r`);
  }
}

/** The pause between two updates on a terminal, and in a log, milliseconds. */
const TERMINAL_EVERY = 250;
const LOG_EVERY = 5000;

/** Shows progress, as `text` describes it at that time, until disposed of. */
export function watchProgress(to: TextOutput, text: () => string): Disposable {
  const { isTTY } = to;
  const line = new ChangingLine(to);
  const tell = () => (isTTY ? line.show(text()) : to.say(`kiln: ${text()}\n`));
  const timer = setInterval(tell, isTTY ? TERMINAL_EVERY : LOG_EVERY);
  timer.unref();
  return {
    [Symbol.dispose]: () => {
      clearInterval(timer);
      line[Symbol.dispose]();
    },
  };
}
