import { type BigIntStats, constants, fchmodSync, fchownSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno, SyscallError } from '../host/calls/libc.ts';
import {
  lchownat,
  linkat,
  mkdirat,
  openat2,
  openDirectory,
  setTimes,
  symlinkat,
  unlinkat,
} from '../host/files/at.ts';
import { type ByteString, toBytes } from './pattern.ts';

/** Whose the copies are. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

/** Does something synchronous with the rights of whoever's files it is about. */
export type WithRights = <Result>(act: () => Result) => Result;

/** Where copies go, and how. */
interface DestinationOptions {
  /** Descriptor of the directory that all paths are relative to. */
  readonly root: number;
  /** RESOLVE_ flags that keep a path below `root` inside it. */
  readonly resolve: number;
  readonly owner: Owner;
  /** Does what makes or removes an entry, as somebody else than this process. */
  readonly writing?: WithRights;
  /** Whether what is there gives way; existing directories are then kept as they are. */
  readonly replace: boolean;
  /** The error for a destination that cannot be written. */
  readonly failure: (path: ByteString, cause: unknown) => KilnError;
}

/** An entry to be made: its path below the root, and the open directory that it goes into. */
export interface DestinationStep {
  readonly to: number;
  readonly path: ByteString;
}

/** Bits that survive: rwx for all, and sticky. Setuid and setgid mean nothing good elsewhere. */
const KEPT_BITS = 0o1777;
const DROPPED_BITS = 0o6000n;

const NEW_FILE = {
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode: 0o600,
};

/** The permission bits that a copy gets. */
export function keptMode(stats: BigIntStats): number {
  return Number(stats.mode) & KEPT_BITS;
}

/** The setuid and setgid bits that a copy loses. */
export function droppedBits(stats: BigIntStats): number {
  return Number(stats.mode & DROPPED_BITS);
}

/** Makes files, directories and links in one tree. Every failure is `failure`'s error. */
export class Destination {
  readonly #options: DestinationOptions;
  readonly #directories: { readonly path: ByteString; readonly stats: BigIntStats }[] = [];

  constructor(options: DestinationOptions) {
    this.#options = options;
  }

  /** Makes an empty file and opens it for writing; the caller closes the descriptor. */
  createFile(step: DestinationStep): number {
    return this.#attempt(step.path, () => {
      const name = this.#vacate(step);
      return openat2(step.to, name, NEW_FILE);
    });
  }

  /** Gives an open copy its owner, mode and times, in the order that keeps them. */
  dress(fd: number, stats: BigIntStats): void {
    const { writing } = this.#options;
    if (writing === undefined) this.#dress(fd, stats);
    else writing(() => this.#dress(fd, stats));
  }

  #dress(fd: number, stats: BigIntStats): void {
    fchownSync(fd, this.#options.owner.uid, this.#options.owner.gid);
    fchmodSync(fd, keptMode(stats));
    setTimes(fd, stats);
  }

  /** Makes a directory that will look like `stats`, unless it is to be kept as it is. */
  makeDirectory(step: DestinationStep, stats: BigIntStats): void {
    this.#attempt(step.path, () => {
      try {
        mkdirat(step.to, lastComponent(step.path), 0o700);
      } catch (error) {
        if (this.#options.replace && hasErrno(error, 'EEXIST')) return;
        throw error;
      }
      this.#directories.push({ path: step.path, stats });
    });
  }

  /** Opens a directory to fill it; the caller closes the descriptor. */
  openDirectory(step: DestinationStep): number {
    return this.#attempt(step.path, () =>
      // An image's own links to directories (/lib) are followed, inside its root.
      this.#options.replace
        ? this.#resolve(step.path)
        : openDirectory(step.to, lastComponent(step.path)),
    );
  }

  /** Gives the file at `existing` another name; false where this file system cannot. */
  linkFile(step: DestinationStep, existing: ByteString): boolean {
    return this.#attempt(step.path, () => {
      try {
        const name = this.#vacate(step);
        this.#inParent(existing, (from, oldName) => linkat(from, oldName, step.to, name));
        return true;
      } catch (error) {
        if (hasErrno(error, 'EMLINK', 'EPERM', 'EOPNOTSUPP', 'ENOSYS')) return false;
        throw error;
      }
    });
  }

  makeSymlink(step: DestinationStep, target: ByteString, stats: BigIntStats): void {
    this.#attempt(step.path, () => {
      const name = this.#vacate(step);
      symlinkat(toBytes(target), step.to, name);
      lchownat(step.to, name, this.#options.owner.uid, this.#options.owner.gid);
      setTimes(step.to, stats, name);
    });
  }

  /** Runs `act` with the open directory that the entry at `path` is in. */
  inDirectoryOf(path: ByteString, act: (to: number) => void): void {
    this.#attempt(path, () => this.#inParent(path, act));
  }

  removeFile(step: DestinationStep): void {
    this.#attempt(step.path, () => unlinkat(step.to, lastComponent(step.path)));
  }

  /** Gives all directories made here their owner, mode and times, when nothing goes in any more. */
  finish(): void {
    // Children were made after their parents: backwards, no parent is closed to us too early.
    for (const { path, stats } of this.#directories.reverse()) {
      this.#attempt(path, () => {
        const fd = this.#resolve(path);
        using _fd = closing(fd);
        this.#dress(fd, stats);
      });
    }
  }

  /** The error to throw when writing the entry at `path` failed; a KilnError stays what it is. */
  failure(path: ByteString, cause: unknown): unknown {
    const system = cause instanceof SyscallError || (cause as NodeJS.ErrnoException)?.syscall;
    return system ? this.#options.failure(path, cause) : cause;
  }

  #attempt<Result>(path: ByteString, act: () => Result): Result {
    try {
      return this.#options.writing === undefined ? act() : this.#options.writing(act);
    } catch (error) {
      throw this.failure(path, error);
    }
  }

  /** The entry's own name, after making it free. */
  #vacate(step: DestinationStep): Buffer {
    const name = lastComponent(step.path);
    if (!this.#options.replace) return name;
    try {
      unlinkat(step.to, name);
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) throw error;
    }
    return name;
  }

  #resolve(path: ByteString): number {
    return openat2(this.#options.root, path === '' ? '.' : toBytes(path), {
      flags: constants.O_RDONLY | constants.O_DIRECTORY,
      resolve: this.#options.resolve,
    });
  }

  #inParent(path: ByteString, act: (parent: number, name: Buffer) => void): void {
    const parent = this.#resolve(path.slice(0, Math.max(0, path.lastIndexOf('/'))));
    using _parent = closing(parent);
    act(parent, lastComponent(path));
  }
}

function lastComponent(path: ByteString): Buffer {
  return toBytes(path.slice(path.lastIndexOf('/') + 1));
}

/** The error for a result directory that cannot be used: E_RESULTDIR. */
export function unusableResultDirectory(path: string, cause: unknown): KilnError {
  return new KilnError('E_RESULTDIR', `the result directory ${path} cannot be used`, {
    hint: 'name a directory that can be written, with room for the artifacts',
    cause,
  });
}
