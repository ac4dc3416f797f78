import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { echoToOwner } from '../kernel/own-process.ts';
import { clearPlace } from '../state/damage.ts';

/** A log file is closed and renamed beyond so many bytes; so many old ones are kept beside it. */
const MAX_BYTES = 10 * 2 ** 20;
const KEPT = 4;

/** A line longer than this (characters) is cut: what a service writes is not to be trusted. */
const MAX_LINE = 8192;

/** The log of a service: lines with a time, rotated by size, so that no service fills the disk. */
export class LogFile implements Disposable {
  readonly #path: string;
  readonly #echo: boolean;
  #fd: number;
  #bytes: number;

  /** With `echo`, lines go to standard output too, without their time: a journal adds its own. */
  constructor(path: string, options: { readonly echo?: boolean } = {}) {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    clearPlace(path);
    this.#path = path;
    this.#echo = options.echo ?? false;
    this.#fd = openSync(path, 'a', 0o600);
    this.#bytes = fstatSync(this.#fd).size;
  }

  /** Adds a line that `source` said; control characters are taken out. */
  write(source: string, text: string): void {
    const clean = printable(text.length > MAX_LINE ? `${text.slice(0, MAX_LINE)}…` : text);
    const line = `${source}: ${clean}\n`;
    if (this.#echo) echoToOwner(line);
    if (this.#bytes > MAX_BYTES) this.rotate();
    this.#bytes += writeSync(this.#fd, `${new Date().toISOString()} ${line}`);
  }

  /** Begins a new file; the oldest goes. */
  rotate(): void {
    closeSync(this.#fd);
    for (let age = KEPT; age > 0; age--) {
      const from = age === 1 ? this.#path : `${this.#path}.${age - 1}`;
      if (statSync(from, { throwIfNoEntry: false })) renameSync(from, `${this.#path}.${age}`);
    }
    this.#fd = openSync(this.#path, 'a', 0o600);
    this.#bytes = 0;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

function printable(text: string): string {
  return stripVTControlCharacters(text).replace(/[\u0000-\u0008\u000a-\u001f\u007f-\u009f]/g, '?');
}

/** Cuts a stream of bytes into lines; what is never ended is handed on in pieces. */
export class LineSplitter {
  readonly #line: (text: string) => void;
  readonly #decoder = new TextDecoder();
  #pending = '';

  constructor(line: (text: string) => void) {
    this.#line = line;
  }

  push(chunk: Buffer): void {
    const lines = (this.#pending + this.#decoder.decode(chunk, { stream: true })).split('\n');
    this.#pending = lines.pop() ?? '';
    for (const line of lines) this.#line(line.replace(/\r$/, ''));
    if (this.#pending.length > MAX_LINE) this.end();
  }

  end(): void {
    if (this.#pending !== '') this.#line(this.#pending);
    this.#pending = '';
  }
}
