import { setImmediate as nextTurn } from 'node:timers/promises';
import { defined } from '../defined.ts';
import { KilnError } from '../errors.ts';
import { type ByteString, quoteName, reportName } from './pattern.ts';

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
        ? 'pack sparse files into an archive inside the sandbox: `tar -S`'
        : 'name fewer files, or pack them into one archive inside the sandbox',
    details: { limit: kind, value: limit },
  });
}

/** Why something was not copied, or not copied exactly as it was. Stable, scripts may match. */
type ArtifactWarningCode =
  /** A device, socket or fifo: skipped. */
  | 'special-file'
  /** A symbolic link to something that was not collected: skipped. */
  | 'link-outside'
  /** Something in /proc, /sys or the like: skipped. */
  | 'pseudo-filesystem'
  /** A setuid or setgid bit was taken off. */
  | 'mode-bits-dropped'
  /** It was listed, then gone before it could be opened: skipped. */
  | 'vanished'
  /** It changed while being read; the copy and its digest are what was read. */
  | 'changed'
  /** It could not be opened or read: skipped. */
  | 'unreadable'
  /** A pattern that nothing was collected for. */
  | 'no-match'
  /** More warnings than are kept one by one. */
  | 'more';

/** One thing a person should know about a collection. */
export interface ArtifactWarning {
  readonly code: ArtifactWarningCode;
  /** Where it is in the sandbox (of `no-match`: the pattern); absent for `more`. */
  readonly path?: string;
  /** The exact bytes of `path` in base64, where it is not UTF-8. */
  readonly pathBytes?: string;
  /** A sentence. */
  readonly message: string;
}

/** A hostile tree can hold a million sockets: this many warnings are told, the rest counted. */
const MAX_WARNINGS = 200;

/** A path can have 4096 bytes that none prints as it is: so much text is told, characters. */
const MAX_TEXT = 1 << 18;

/** Gathers warnings, each passed on at once to `notify`. */
export class Warnings {
  readonly #notify: ((warning: ArtifactWarning) => void) | undefined;
  readonly #kept: ArtifactWarning[] = [];
  #dropped = 0;
  #text = 0;

  constructor(notify?: (warning: ArtifactWarning) => void) {
    this.#notify = notify;
  }

  /** @param what completes the sentence that starts with the quoted path */
  add(code: ArtifactWarningCode, path: ByteString, what: string): void {
    if (this.#kept.length >= MAX_WARNINGS || this.#text > MAX_TEXT) {
      this.#dropped += 1;
      return;
    }
    const name = reportName(path);
    this.#keep({
      code,
      path: name.text,
      ...defined({ pathBytes: name.bytes }),
      message: `${quoteName(path)} ${what}`,
    });
  }

  /** Those kept so far, in order. */
  get all(): readonly ArtifactWarning[] {
    return this.#kept;
  }

  /** All warnings in order; call once, at the end. */
  finish(): readonly ArtifactWarning[] {
    if (this.#dropped > 0) {
      this.#keep({ code: 'more', message: `${this.#dropped} more warnings are not listed` });
    }
    return this.#kept;
  }

  #keep(warning: ArtifactWarning): void {
    this.#text += warning.message.length;
    this.#kept.push(warning);
    this.#notify?.(warning);
  }
}
