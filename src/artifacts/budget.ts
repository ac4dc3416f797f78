import { setImmediate as nextTurn } from 'node:timers/promises';
import { KilnError } from '../errors.ts';

/** How much a collection may take; what goes beyond fails it as a whole. */
export interface CopyLimits {
  /** Files, links and directories copied. */
  readonly entries: number;
  /** Directory entries looked at, copied or not. */
  readonly visited: number;
  /** Bytes of content, holes not counted. */
  readonly bytes: number;
  /** Bytes of holes: they take no room, but each has to be hashed, some gigabytes a second. */
  readonly holes: number;
  /** Directories within directories. */
  readonly depth: number;
}

const GIB = 2 ** 30;

const DEFAULT_LIMITS: CopyLimits = {
  entries: 200_000,
  visited: 2_000_000,
  bytes: 64 * GIB,
  holes: 16 * GIB,
  depth: 200,
};

/** Work goes on for at most this long before others (signals, output) get their turn. */
const TURN_MS = 10;

/** Counts what a copy uses against its limits, and keeps it from hogging the event loop. */
export class Budget {
  readonly limits: CopyLimits;
  readonly #signal: AbortSignal | undefined;
  readonly #used = { entries: 0, visited: 0, bytes: 0, holes: 0 };
  #turnEnds = performance.now() + TURN_MS;

  constructor(limits: Partial<CopyLimits> = {}, signal?: AbortSignal) {
    this.limits = { ...DEFAULT_LIMITS, ...limits };
    this.#signal = signal;
  }

  /** @throws KilnError E_ARTIFACT_LIMIT */
  spend(
    kind: keyof Budget['limits'] & ('entries' | 'visited' | 'bytes' | 'holes'),
    amount: number,
  ): void {
    this.#used[kind] += amount;
    if (this.#used[kind] > this.limits[kind]) throw limitExceeded(kind, this.limits[kind]);
  }

  /** How many directory entries may still be looked at. */
  get visitsLeft(): number {
    return this.limits.visited - this.#used.visited;
  }

  /** @throws KilnError E_ARTIFACT_LIMIT */
  checkDepth(depth: number): void {
    if (depth > this.limits.depth) throw limitExceeded('depth', this.limits.depth);
  }

  /** Whether it is time to await {@link breathe}. Throws the signal's reason when aborted. */
  get due(): boolean {
    this.#signal?.throwIfAborted();
    return performance.now() >= this.#turnEnds;
  }

  /** Lets the event loop turn once. */
  async breathe(): Promise<void> {
    await nextTurn();
    this.#signal?.throwIfAborted();
    this.#turnEnds = performance.now() + TURN_MS;
  }
}

const WHAT = {
  entries: 'files and directories',
  visited: 'directory entries looked at',
  bytes: 'bytes',
  holes: 'bytes of holes in sparse files',
  depth: 'directories deep',
};

/** The error for a limit; `details` names it for machines. */
function limitExceeded(kind: keyof CopyLimits, limit: number): KilnError {
  return new KilnError('E_ARTIFACT_LIMIT', `more than ${limit} ${WHAT[kind]} would be copied`, {
    hint:
      kind === 'holes'
        ? 'pack sparse files into an archive inside the box: `tar -S`'
        : 'name fewer files, or pack them into one archive inside the box',
    details: { limit: kind, value: limit },
  });
}
