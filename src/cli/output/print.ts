/**
 * Prints everything on a terminal that is not the output of a command. Names of files, log lines, summaries of
 * packages and messages of servers come from strangers, and characters that control a terminal (escape
 * sequences, changes of the writing direction) must not reach it.
 */

import type { TextOutput } from '../caller/caller.ts';

/**
 * C0 except tab and line end, DEL, C1; characters that change the writing direction or hide text; lone
 * surrogates.
 */
const FOREIGN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]|\p{Surrogate}/gu;

function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  const digits = code.toString(16);
  return code < 0x100 ? `\\x${digits.padStart(2, '0')}` : `\\u${digits.padStart(4, '0')}`;
}

export function plainText(text: string): string {
  return text.replace(FOREIGN, escaped);
}

export function jsonText(value: unknown, indent?: number): string {
  // JSON escapes everything below U+0020 itself, except the line ends of indented text.
  return JSON.stringify(value, undefined, indent).replace(
    FOREIGN,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export function printJson(to: TextOutput, value: unknown, indent?: number): void {
  to.write(`${jsonText(value, indent)}\n`);
}

export function printEither(
  to: TextOutput,
  { json }: { readonly json?: boolean | undefined },
  value: unknown,
  text: () => string,
): void {
  if (json === true) printJson(to, value);
  else to.say(`${text()}\n`);
}

/** Colours (select graphic rendition), the only sequences of a stranger that a terminal gets. */
const COLOUR = /^\u001b\[[0-9;:]*m/;
const BEGUN = /\u001b(?:\[[0-9;:]{0,32})?$/;

/**
 * Shows the log of a build while it is written: byte for byte to a file or a pipe, with colours and no other
 * control characters to a terminal.
 */
export class LogView implements Disposable {
  readonly #output: () => TextOutput;
  readonly #decoder = new TextDecoder();
  #pending = '';
  #coloured = false;

  /** @param output is called when there is output: Node takes a millisecond to make a stream */
  constructor(output: () => TextOutput) {
    this.#output = output;
  }

  write(chunk: Buffer | string): void {
    const to = this.#output();
    if (!to.isTTY) {
      to.write(chunk);
      return;
    }
    const decoded =
      typeof chunk === 'string' ? chunk : this.#decoder.decode(chunk, { stream: true });
    const text = this.#pending + decoded;
    this.#pending = BEGUN.exec(text)?.[0] ?? '';
    to.write(this.#plain(text.slice(0, text.length - this.#pending.length)));
  }

  [Symbol.dispose](): void {
    if (this.#pending !== '') this.#output().write(this.#plain(this.#pending));
    if (this.#coloured) this.#output().write('\u001b[0m');
    this.#pending = '';
    this.#coloured = false;
  }

  #plain(text: string): string {
    return text
      .split(/(?=\u001b)/)
      .map((part) => {
        const colour = COLOUR.exec(part)?.[0] ?? '';
        if (colour !== '') this.#coloured = true;
        // A return goes to the start of the line, as progress bars do; it can hide only output of the same
        // build.
        return colour + part.slice(colour.length).split('\r').map(plainText).join('\r');
      })
      .join('');
  }
}

/** The end of a log that a person still sees, bytes: two screens of long lines. */
const SEEN = 16 * 1024;

/** Prints the last lines of what has failed. */
export function printLines(lines: readonly string[], to: Pick<TextOutput, 'say'>): void {
  for (const line of lines) to.say(`  | ${line}\n`);
}

export class LogTail {
  #end = Buffer.alloc(0);

  push(chunk: Buffer | string): void {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk;
    const all = bytes.length >= SEEN ? bytes : Buffer.concat([this.#end, bytes]);
    this.#end = Buffer.from(all.subarray(-SEEN));
  }

  has(lines: readonly string[]): boolean {
    const text = this.#end.toString('utf8');
    return lines.every((line) => text.includes(line));
  }
}
