import type { BigIntStats } from 'node:fs';
import type { ByteString } from '../../artifacts/byte-string.ts';
import { SyscallError } from '../../host/calls/libc.ts';
import type { Change } from './entry.ts';
import type { Ours } from './ours.ts';

/** Why one change is not applied; the others are. */
export class LeftAlone extends Error {
  readonly isConflict: boolean;

  constructor(why: string, isConflict = false) {
    super(why);
    this.isConflict = isConflict;
  }
}

/** Undefined for what is no fault of one entry. */
export function whyLeft(error: unknown): string | undefined {
  if (error instanceof LeftAlone) return error.message;
  if (error instanceof SyscallError) return `it cannot be written (${error.errnoName})`;
  const { syscall, code } = error as NodeJS.ErrnoException;
  return syscall === undefined ? undefined : `it cannot be written (${code})`;
}

interface ConflictRules {
  readonly since: bigint;
  readonly force: boolean;
  readonly ours: Ours;
}

/**
 * What has changed in the folder since the sandbox began. The kernel tells by the time of an inode's last change
 * (ctime), which nobody can set: of the file, or of all that lies in a folder that goes away.
 */
export class Conflicts {
  readonly #rules: ConflictRules;

  constructor(rules: ConflictRules) {
    this.#rules = rules;
  }

  refuse({ path, change, isCopy }: Change, there: BigIntStats | undefined, isClean: boolean): void {
    if (this.#rules.force) return;
    if (there === undefined) {
      if (change !== 'added' && change !== 'removed') throw new LeftAlone('it is gone', true);
      if (change === 'added' && isCopy && !isClean) {
        throw new LeftAlone('it may have been removed since the sandbox began', true);
      }
      return;
    }
    if (change === 'added') throw new LeftAlone('something else is there now', true);
    this.refuseChanged(path, there);
  }

  isChanged(path: ByteString, stats: BigIntStats): boolean {
    return stats.ctimeNs >= this.#rules.since && !this.#rules.ours.has(path, stats);
  }

  refuseChanged(path: ByteString, stats: BigIntStats, what = 'it'): void {
    if (this.#rules.force || !this.isChanged(path, stats)) return;
    throw new LeftAlone(`${what} has changed since the sandbox began`, true);
  }
}
