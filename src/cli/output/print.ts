/**
 * Prints everything on a terminal that is not the output of a command. Names of files, log lines, summaries of
 * packages and messages of servers come from strangers, and characters that control a terminal (escape
 * sequences, changes of the writing direction) must not reach it.
 */

import { randomUUID } from 'node:crypto';
import type { Writable } from 'node:stream';

/**
 * C0 except tab and line end, DEL, C1; characters that change the writing direction, hide text or are not seen
 * (Unicode's Format); lone surrogates.
 */
const FOREIGN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028\u2029]|\p{Format}|\p{Surrogate}/gu;

function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0;
  const digits = code.toString(16);
  return code < 0x100 ? `\\x${digits.padStart(2, '0')}` : `\\u${digits.padStart(4, '0')}`;
}

export function plainText(text: string): string {
  return text.replace(FOREIGN, escaped);
}

/** A service that takes lines of a log for orders. */
export type CiService = 'github' | 'gitlab';

/**
 * Plain text in which no line is an order to the service. GitHub's runner takes lines that begin with `::`, after
 * blanks, and `##[` anywhere in a line, on both outputs; markers of GitLab's have control characters.
 */
export function harmlessText(text: string, service: CiService | undefined): string {
  const plain = plainText(text);
  if (service !== 'github') return plain;
  return plain.replaceAll(/^([^\S\n]*):(?=:)/gm, '$1\\x3a').replaceAll('##[', '##\\x5b');
}

export interface TextOutput {
  readonly isTTY: boolean;
  readonly columns: number;
  /** A service that reads it, and may take lines for orders. */
  readonly service: CiService | undefined;
  /** For much output: it tells when there is room for more. Fails with EPIPE if nobody reads. */
  readonly stream: Writable;
  /** Writes text unchanged: none of it may come from a stranger. */
  write(text: string | Uint8Array): void;
  /** Writes kiln's own words and quotations, without what controls a terminal or orders a CI service. */
  say(text: string): void;
}

export function jsonText(value: unknown, indent?: number): string {
  // JSON escapes everything below U+0020 itself, except the line ends of indented text. No line begins with `::`.
  return JSON.stringify(value, undefined, indent)
    .replace(FOREIGN, (character) =>
      Array.from({ length: character.length }, (_, at) => unit(character.charCodeAt(at))).join(''),
    )
    .replaceAll('##[', `##${unit(0x5b)}`);
}

function unit(code: number): string {
  return `\\u${code.toString(16).padStart(4, '0')}`;
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

/** The beginning of a marker of GitLab's; what is between the two has no bearing on it. */
const MARKER = /section_(start|end):/g;
const MARKERS = ['section_start:', 'section_end:'];

/**
 * Shows the log of a build while it is written: byte for byte to a file or a pipe, with colours and no other
 * control characters to a terminal. To GitHub it goes between `stop-commands` and a token that nobody can guess, which
 * makes nothing of it a command; of GitLab's markers the colon is escaped.
 */
export class LogView implements Disposable {
  readonly #output: () => TextOutput;
  readonly #decoder = new TextDecoder();
  #pending = '';
  #coloured = false;
  /** Resumes the commands of GitHub's runner. */
  #token: string | undefined;
  #isLineOpen = false;

  /** @param output is called when there is output: Node takes a millisecond to make a stream */
  constructor(output: () => TextOutput) {
    this.#output = output;
  }

  write(chunk: Buffer | string): void {
    const to = this.#output();
    if (chunk.length === 0) return;
    if (to.service === 'github' && this.#token === undefined) {
      this.#token = randomUUID();
      to.write(`::stop-commands::${this.#token}\n`);
    }
    const last = chunk.at(-1);
    this.#isLineOpen = last !== 0x0a && last !== '\n';
    if (!to.isTTY) {
      to.write(to.service === 'gitlab' ? this.#withoutMarkers(chunk) : chunk);
      return;
    }
    const decoded =
      typeof chunk === 'string' ? chunk : this.#decoder.decode(chunk, { stream: true });
    const text = this.#pending + decoded;
    this.#pending = BEGUN.exec(text)?.[0] ?? '';
    to.write(this.#plain(text.slice(0, text.length - this.#pending.length)));
  }

  /** Ends what is shown; more may come later. */
  [Symbol.dispose](): void {
    if (this.#pending !== '') {
      const to = this.#output();
      to.write(to.isTTY ? this.#plain(this.#pending) : Buffer.from(this.#pending, 'latin1'));
    }
    if (this.#coloured) this.#output().write('\u001b[0m');
    if (this.#token !== undefined) {
      this.#output().write(`${this.#isLineOpen ? '\n' : ''}::${this.#token}::\n`);
    }
    this.#pending = '';
    this.#coloured = false;
    this.#token = undefined;
    this.#isLineOpen = false;
  }

  /** A beginning at the end of the chunk waits for what comes. */
  #withoutMarkers(chunk: Buffer | string): Buffer {
    const text = this.#pending + Buffer.from(chunk as string).toString('latin1');
    const begun = MARKERS.flatMap((marker) =>
      Array.from({ length: marker.length - 1 }, (_, at) => marker.slice(0, at + 1)),
    );
    this.#pending = begun
      .filter((beginning) => text.endsWith(beginning))
      .reduce((longest, one) => (one.length > longest.length ? one : longest), '');
    const whole = text.slice(0, text.length - this.#pending.length);
    return Buffer.from(whole.replace(MARKER, 'section_$1\\x3a'), 'latin1');
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
export function printLines(lines: readonly string[], to: TextOutput): void {
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
