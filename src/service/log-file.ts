import { once } from 'node:events';
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  renameSync,
  statSync,
  watch,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { counted } from '../counted.ts';
import { reasonOf } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { Tail } from '../host/files/tail.ts';
import { echoToOwner } from '../host/process/own-process.ts';
import { clearPlace } from '../host/state/damage.ts';
import type { InstanceFiles } from './lifecycle/store.ts';

/** A log file is renamed at this size, and this many old ones are kept. */
const MAX_BYTES = 10 * 2 ** 20;
const KEPT = 4;

/** Longer lines (characters) are cut: the text comes from the service. */
const MAX_LINE = 8192;

export class LogFile implements Disposable {
  readonly #path: string;
  readonly #echo: boolean;
  #fd: number;
  #bytes: number;
  #missing = 0;
  #why = '';

  /** With `echo`, lines also go to standard output, without the time: a journal adds one. */
  constructor(path: string, options: { readonly echo?: boolean } = {}) {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    clearPlace(path);
    this.#path = path;
    this.#echo = options.echo ?? false;
    this.#fd = openSync(path, 'a', 0o600);
    this.#bytes = fstatSync(this.#fd).size;
  }

  /** Never throws: a service goes on, and can be stopped, where its log has no room. */
  write(source: string, text: string): void {
    const clean = printable(text.length > MAX_LINE ? `${text.slice(0, MAX_LINE)}…` : text);
    const line = `${source}: ${clean}\n`;
    if (this.#echo) echoToOwner(line);
    try {
      if (this.#bytes > MAX_BYTES) this.rotate();
      if (this.#missing > 0) {
        this.#append(
          `kiln: ${counted(this.#missing, 'line is', 'lines are')} missing: ${this.#why}\n`,
        );
        this.#missing = 0;
      }
      this.#append(line);
    } catch (error) {
      this.#missing++;
      this.#why = reasonOf(error);
    }
  }

  #append(line: string): void {
    const bytes = Buffer.from(`${new Date().toISOString()} ${line}`);
    const written = writeSync(this.#fd, bytes);
    if (written < bytes.length) {
      // What comes when there is room again begins a line.
      ftruncateSync(this.#fd, this.#bytes);
      throw new Error('no space was left');
    }
    this.#bytes += written;
  }

  rotate(): void {
    // First what may fail: nothing is renamed then.
    const next = `${this.#path}.next`;
    const fd = openSync(next, 'a', 0o600);
    try {
      for (let age = KEPT; age > 0; age--) {
        const from = age === 1 ? this.#path : `${this.#path}.${age - 1}`;
        if (statSync(from, { throwIfNoEntry: false })) renameSync(from, `${this.#path}.${age}`);
      }
      renameSync(next, this.#path);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    closeSync(this.#fd);
    this.#fd = fd;
    this.#bytes = 0;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

function printable(text: string): string {
  return stripVTControlCharacters(text).replace(/[\u0000-\u0008\u000a-\u001f\u007f-\u009f]/g, '?');
}

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
    if (this.#pending.length > MAX_LINE) this.#tell();
  }

  end(): void {
    // A character that was cut is told as one that cannot be read.
    this.#pending += this.#decoder.decode();
    this.#tell();
  }

  #tell(): void {
    if (this.#pending !== '') this.#line(this.#pending);
    this.#pending = '';
  }
}

const TAIL_BYTES = 4 * 2 ** 20;
/** File events may be lost, so the file is looked at after this time, ms. */
const LOOK_PAUSE = 1000;

/** @param end bytes of the newest file after which nothing is read */
export function readLog(
  files: InstanceFiles,
  count: number,
  end = Number.POSITIVE_INFINITY,
): string[] {
  const lines = tailLines(files.log, end);
  if (lines.length < count) lines.unshift(...tailLines(`${files.log}.1`));
  return lines.slice(-count);
}

function tailLines(path: string, end = Number.POSITIVE_INFINITY): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return [];
  using file = closing(openSync(path, 'r'));
  const size = Math.min(fstatSync(file.fd).size, end);
  const start = Math.max(0, size - TAIL_BYTES);
  const bytes = Buffer.alloc(size - start);
  const count = readSync(file.fd, bytes, 0, bytes.length, start);
  const lines = bytes.toString('utf8', 0, count).split('\n');
  if (start > 0) lines.shift();
  return lines.filter((line) => line !== '');
}

/** Writes the last `count` lines, and all that follow. */
export async function followLog(
  files: InstanceFiles,
  count: number,
  write: (text: string) => void,
  signal: AbortSignal,
): Promise<void> {
  using tail = new Tail(files.log);
  for (const line of readLog(files, count, tail.skip()))
    write(`${line}
`);
  const look = () => {
    for (const line of tail.lines())
      write(`${line}
`);
  };
  const watcher = watch(files.logs, look);
  const timer = setInterval(look, LOOK_PAUSE);
  try {
    if (!signal.aborted) await once(signal, 'abort');
  } finally {
    watcher.close();
    clearInterval(timer);
    look();
  }
}
