/** Reads events back, and goes on with those that come. */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { attempt } from '../host/calls/libc.ts';
import type { StateRoot } from '../host/state/paths.ts';
import type { KilnEvent } from './event.ts';
import { currentFile, previousFile, uidsWithEvents } from './files.ts';

/** Whose events somebody sees; without it, everybody's. A number that was another account's has that one's. */
export interface EventViewer {
  readonly uid: number;
  readonly user?: string | undefined;
}

export interface ReadOptions {
  readonly viewer?: EventViewer | undefined;
  /** Milliseconds since 1970. */
  readonly since?: number;
}

/** Bytes that are read at a time. */
const PIECE = 1 << 20;

/** A file that somebody appends to. */
class Tail implements Disposable {
  readonly #path: string;
  #fd: number | undefined;
  #at = 0;
  #rest = '';
  #decoder = new StringDecoder('utf8');

  constructor(path: string) {
    this.#path = path;
    this.#open();
  }

  /** Of the file that is open now. */
  get ino(): number | undefined {
    return this.#fd === undefined ? undefined : fstatSync(this.#fd).ino;
  }

  #open(): void {
    this.#fd = attempt(() => openSync(this.#path, constants.O_RDONLY | constants.O_NOFOLLOW));
  }

  /** Whole lines that have come since; another file of the same name is begun once the one before is read. */
  *lines(): Generator<string> {
    for (;;) {
      yield* this.#more();
      const { ino } = attempt(() => statSync(this.#path)) ?? {};
      if (ino === undefined || this.ino === ino) return;
      // What was written between the last look and the change of names.
      yield* this.#more();
      this[Symbol.dispose]();
      this.#open();
      if (this.#fd === undefined) return;
    }
  }

  *#more(): Generator<string> {
    const bytes = Buffer.alloc(PIECE);
    while (this.#fd !== undefined) {
      const read = readSync(this.#fd, bytes, 0, PIECE, this.#at);
      if (read === 0) return;
      this.#at += read;
      const lines = `${this.#rest}${this.#decoder.write(bytes.subarray(0, read))}`.split('\n');
      this.#rest = lines.pop() ?? '';
      yield* lines;
    }
  }

  [Symbol.dispose](): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    this.#at = 0;
    this.#rest = '';
    this.#decoder = new StringDecoder('utf8');
  }
}

export class EventReader implements Disposable {
  readonly #paths: StateRoot;
  readonly #options: ReadOptions;
  readonly #tails = new Map<number, Tail>();

  constructor(paths: StateRoot, options: ReadOptions = {}) {
    this.#paths = paths;
    this.#options = options;
  }

  /** Those that have come since the last call, the oldest first. */
  read(): KilnEvent[] {
    const { viewer } = this.#options;
    const uids = uidsWithEvents(this.#paths);
    const seen = viewer === undefined ? uids : uids.filter((uid) => uid === viewer.uid);
    const events = seen.flatMap((uid) => [...this.#readOf(uid)]);
    return events.sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  }

  *#readOf(uid: number): Generator<KilnEvent> {
    let tail = this.#tails.get(uid);
    if (tail === undefined) {
      tail = new Tail(currentFile(this.#paths, uid));
      this.#tails.set(uid, tail);
      using before = new Tail(previousFile(this.#paths, uid));
      // The one that has just been opened may have become the one before.
      if (before.ino !== tail.ino) yield* this.#wanted(before.lines());
    }
    yield* this.#wanted(tail.lines());
  }

  *#wanted(lines: Iterable<string>): Generator<KilnEvent> {
    const { viewer, since = 0 } = this.#options;
    for (const line of lines) {
      const event = eventIn(line);
      if (event === undefined || Date.parse(event.time) < since) continue;
      if (viewer === undefined || event.user === viewer.user) yield event;
    }
  }

  [Symbol.dispose](): void {
    for (const tail of this.#tails.values()) tail[Symbol.dispose]();
  }
}

/** Undefined for half a line: whoever wrote it was killed, or the machine. */
function eventIn(line: string): KilnEvent | undefined {
  const value = attempt((): KilnEvent & { readonly process?: string } => JSON.parse(line));
  if (typeof value?.event !== 'string' || typeof value.time !== 'string') return undefined;
  const { process: _, ...event } = value;
  return event;
}
