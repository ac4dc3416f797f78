import { setImmediate as nextTurn } from 'node:timers/promises';
import { KilnError } from '../errors.ts';
import { sizeInWords } from '../host/calls/system-error.ts';
import { noteDone } from '../host/process/work.ts';

export interface CopyLimits {
  readonly entries: number;
  readonly visited: number;
  /** Bytes of all their paths, which this process keeps. */
  readonly paths: number;
  readonly bytes: number;
  /** Bytes of holes: they take no room, but each has to be hashed, some gigabytes a second. */
  readonly holes: number;
  readonly depth: number;
}

const GIB = 2 ** 30;

export const DEFAULT_LIMITS: CopyLimits = {
  entries: 200_000,
  visited: 2_000_000,
  paths: 256 << 20,
  bytes: 64 * GIB,
  holes: 16 * GIB,
  depth: 200,
};

/** Work goes on for at most this long before others (signals, output) get their turn. */
const TURN_MS = 10;

/** Throws where the disk that is written to has no room for so many bytes more. */
export type Room = (bytes: number) => void;

export class Budget {
  readonly #limits: CopyLimits;
  readonly #room: Room | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #used = { entries: 0, visited: 0, paths: 0, bytes: 0, holes: 0 };
  #turnEnds = performance.now() + TURN_MS;

  constructor(limits: Partial<CopyLimits> = {}, signal?: AbortSignal, room?: Room) {
    this.#room = room;
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
    this.#signal = signal;
  }

  spend(kind: Exclude<keyof CopyLimits, 'depth'>, amount: number): void {
    this.#used[kind] += amount;
    if (this.#used[kind] > this.#limits[kind]) throw limitError(kind, this.#limits[kind]);
    if (kind === 'bytes' || kind === 'entries') this.#room?.(kind === 'bytes' ? amount : 0);
  }

  checkDepth(depth: number): void {
    if (depth > this.#limits.depth) throw limitError('depth', this.#limits.depth);
  }

  /** Whether it is time to await {@link breathe}. Throws the signal's reason when aborted. */
  get due(): boolean {
    this.#signal?.throwIfAborted();
    return performance.now() >= this.#turnEnds;
  }

  /** @param done what whoever waits is told, of what is counted */
  async breathe(done?: number): Promise<void> {
    if (done !== undefined) noteDone(done);
    await nextTurn();
    this.#signal?.throwIfAborted();
    // Others write as well.
    this.#room?.(0);
    this.#turnEnds = performance.now() + TURN_MS;
  }
}

/** What is counted. */
export const LIMIT_TEXT: Readonly<Record<keyof CopyLimits, (limit: number) => string>> = {
  entries: (limit) => `${limit} files and folders`,
  visited: (limit) => `${limit} folder entries looked at`,
  paths: (limit) => `${sizeInWords(limit)} of paths`,
  bytes: sizeInWords,
  holes: (limit) => `${sizeInWords(limit)} of holes in sparse files`,
  depth: (limit) => `${limit} folders deep`,
};

function limitError(kind: keyof CopyLimits, limit: number): KilnError {
  return new KilnError('E_ARTIFACT_LIMIT', `more than ${LIMIT_TEXT[kind](limit)} would be copied`, {
    hint:
      kind === 'holes'
        ? 'pack sparse files into an archive inside the sandbox: `tar -S`'
        : 'name fewer files, or pack them into one archive inside the sandbox',
    details: { limit: kind, value: limit },
  });
}
