/** Reads events back, and goes on with those that come. */
import { attempt } from '../host/calls/libc.ts';
import { Tail } from '../host/files/tail.ts';
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
