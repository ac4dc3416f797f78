/**
 * The only way to a terminal for what is not the output of a command. Names of files, log lines,
 * summaries of packages and messages of servers come from strangers, and what a terminal acts on (escape
 * sequences, changes of the writing direction) must not reach it.
 */

import type { TextOutput } from '../caller/caller.ts';

/** C0 but tab and line end, DEL, C1; marks that change the direction of writing or hide; lone surrogates. */
const FOREIGN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\p{Surrogate}/gu;

/** Such a character as it is written in programs. */
function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  const digits = code.toString(16);
  return code < 0x100 ? `\\x${digits.padStart(2, '0')}` : `\\u${digits.padStart(4, '0')}`;
}

/** A text of several lines with nothing in it that a terminal acts on. */
export function plainText(text: string): string {
  return text.replace(FOREIGN, escaped);
}

/** JSON that is that same value when read, and plain on a terminal. */
export function jsonText(value: unknown, indent?: number): string {
  // What is below U+0020 is escaped already, but for the line ends of an indented text.
  return JSON.stringify(value, undefined, indent).replace(
    FOREIGN,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

/** Writes a value as JSON, in one line unless it is indented. */
export function printJson(
  to: TextOutput,
  value: unknown,
  { indent }: { readonly indent?: number } = {},
): void {
  to.write(`${jsonText(value, indent)}\n`);
}

/** Colours, which a terminal may have of a stranger: select graphic rendition. */
const COLOUR = /^\u001b\[[0-9;:]*m/;
/** The beginning of one that has not all arrived. */
const BEGUN = /\u001b(?:\[[0-9;:]{0,32})?$/;

/**
 * Shows the log of a build as it is written: to a file or a pipe byte for byte, on a terminal with
 * colours and nothing else that a terminal acts on.
 */
export class LogView implements Disposable {
  readonly #to: TextOutput;
  readonly #decoder = new TextDecoder();
  #pending = '';
  #coloured = false;

  constructor(to: TextOutput) {
    this.#to = to;
  }

  write(chunk: Buffer | string): void {
    if (!this.#to.isTTY) {
      this.#to.write(chunk);
      return;
    }
    const decoded =
      typeof chunk === 'string' ? chunk : this.#decoder.decode(chunk, { stream: true });
    const text = this.#pending + decoded;
    this.#pending = BEGUN.exec(text)?.[0] ?? '';
    this.#to.write(this.#plain(text.slice(0, text.length - this.#pending.length)));
  }

  /** Ends colours that the log did not end. */
  [Symbol.dispose](): void {
    if (this.#pending !== '') this.#to.write(this.#plain(this.#pending));
    if (this.#coloured) this.#to.write('\u001b[0m');
    this.#pending = '';
    this.#coloured = false;
  }

  #plain(text: string): string {
    return text
      .split(/(?=\u001b)/)
      .map((part) => {
        const colour = COLOUR.exec(part)?.[0] ?? '';
        if (colour !== '') this.#coloured = true;
        // A return goes to the start of a line, as progress of tools does: nothing can be hidden so that
        // was not written by the same build.
        return colour + part.slice(colour.length).split('\r').map(plainText).join('\r');
      })
      .join('');
  }
}
