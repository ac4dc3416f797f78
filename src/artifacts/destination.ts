import { type BigIntStats, fchmodSync, fchownSync, fstatSync } from 'node:fs';
import { isKilnCode, KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { attempt, hasErrno, SyscallError, succeeds, unlessErrno } from '../host/calls/libc.ts';
import { lacksInodes } from '../host/calls/system-error.ts';
import {
  DIRECTORY_BELOW,
  lchownat,
  linkat,
  mkdirat,
  NEW_FILE,
  openat2,
  openDirectory,
  setTimes,
  symlinkat,
  unlinkat,
} from '../host/files/at.ts';
import { heldParts } from '../host/files/held.ts';
import { type ByteString, toBytes } from './byte-string.ts';

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export type WithRights = <Result>(act: () => Result) => Result;

interface DestinationOptions {
  readonly root: number;
  readonly owner: Owner;
  readonly writing?: WithRights;
  readonly replace: boolean;
  readonly failure: (path: ByteString, cause: unknown) => KilnError;
}

export interface DestinationStep {
  readonly to: number;
  readonly path: ByteString;
}

/** Bits that survive: rwx for all, and sticky. Setuid and setgid mean nothing good elsewhere. */
const KEPT_BITS = 0o1777;

export function keptMode(stats: BigIntStats): number {
  return Number(stats.mode) & KEPT_BITS;
}

export class Destination {
  readonly #options: DestinationOptions;
  readonly #writing: WithRights;
  readonly writing: WithRights | undefined;
  readonly #directories: { readonly path: ByteString; readonly stats: BigIntStats }[] = [];

  constructor(options: DestinationOptions) {
    this.#options = options;
    this.writing = options.writing;
    this.#writing = options.writing ?? ((act) => act());
  }

  createFile(step: DestinationStep): number {
    return this.#attempt(step.path, () => openat2(step.to, this.#vacate(step), NEW_FILE));
  }

  dress(fd: number, stats: BigIntStats): void {
    this.#writing(() => this.#dress(fd, stats));
  }

  #dress(fd: number, stats: BigIntStats): void {
    fchownSync(fd, this.#options.owner.uid, this.#options.owner.gid);
    fchmodSync(fd, keptMode(stats));
    setTimes(fd, stats);
  }

  makeDirectory(step: DestinationStep, stats: BigIntStats): void {
    const make = () => mkdirat(step.to, lastComponent(step.path), 0o700);
    const kept = this.#options.replace ? ['EEXIST'] : [];
    const made = this.#attempt(step.path, () => succeeds(kept, make));
    if (made) this.#directories.push({ path: step.path, stats });
  }

  openDirectory(step: DestinationStep): number {
    return this.#attempt(step.path, () => openDirectory(step.to, lastComponent(step.path)));
  }

  linkFile(step: DestinationStep, existing: ByteString): boolean {
    const link = () => {
      const name = this.#vacate(step);
      this.#inParent(existing, (from, oldName) => linkat(from, oldName, step.to, name));
    };
    const refused = ['EMLINK', 'EPERM', 'EOPNOTSUPP', 'ENOSYS'];
    return this.#attempt(step.path, () => succeeds(refused, link));
  }

  makeSymlink(step: DestinationStep, target: ByteString, stats: BigIntStats): void {
    this.#attempt(step.path, () => {
      const name = this.#vacate(step);
      symlinkat(toBytes(target), step.to, name);
      lchownat(step.to, name, this.#options.owner.uid, this.#options.owner.gid);
      setTimes(step.to, stats, name);
    });
  }

  inDirectoryOf(path: ByteString, act: (to: number) => void): void {
    this.#attempt(path, () => this.#inParent(path, act));
  }

  removeFile(step: DestinationStep): void {
    this.#attempt(step.path, () => unlinkat(step.to, lastComponent(step.path)));
  }

  finish(): void {
    // Backwards: children were made after their parents, which may be closed to us once they are dressed.
    for (const { path, stats } of this.#directories.reverse()) {
      this.#attempt(path, () => {
        using directory = closing(this.#resolve(path));
        this.#dress(directory.fd, stats);
      });
    }
  }

  failure(path: ByteString, cause: unknown): unknown {
    const system = cause instanceof SyscallError || (cause as NodeJS.ErrnoException)?.syscall;
    return system ? this.#options.failure(path, cause) : cause;
  }

  #attempt<Result>(path: ByteString, act: () => Result): Result {
    try {
      return this.#writing(act);
    } catch (error) {
      throw this.failure(path, error);
    }
  }

  #vacate(step: DestinationStep): Buffer {
    const name = lastComponent(step.path);
    if (!this.#options.replace) return name;
    unlessErrno(['ENOENT'], () => unlinkat(step.to, name));
    return name;
  }

  #resolve(path: ByteString): number {
    return openat2(this.#options.root, path === '' ? '.' : toBytes(path), DIRECTORY_BELOW);
  }

  #inParent(path: ByteString, act: (parent: number, name: Buffer) => void): void {
    using parent = closing(this.#resolve(path.slice(0, Math.max(0, path.lastIndexOf('/')))));
    act(parent.fd, lastComponent(path));
  }
}

function lastComponent(path: ByteString): Buffer {
  return toBytes(path.slice(path.lastIndexOf('/') + 1));
}

/** @param path a held one, or what the caller calls it */
export function resultDirectoryError(path: string, cause: unknown): KilnError {
  if (isKilnCode(cause, 'E_RESULTDIR')) return cause;
  const what = `the result folder ${path} cannot be used`;
  if (hasErrno(cause, 'ELOOP')) {
    const why = 'it is a symbolic link, which a command or a checkout may have put there';
    return new KilnError('E_RESULTDIR', `${what}: ${why}`, {
      hint: `name the folder that it leads to: \`readlink -f ${path}\` prints it`,
    });
  }
  if (hasErrno(cause, 'ENOSPC') && lacksInodes(path)) {
    return new KilnError('E_RESULTDIR', `${what}: no inode is left`, {
      hint: `remove files there, or name another folder: \`df -i\` shows inodes`,
      cause,
    });
  }
  const held = heldParts(path);
  if (held !== undefined && attempt(() => fstatSync(held.fd).nlink) === 0) {
    return new KilnError('E_RESULTDIR', `${what}: it was removed after kiln had opened it`, {
      hint: 'let no command remove the folder that its results go to',
    });
  }
  return new KilnError('E_RESULTDIR', what, {
    hint: 'name a folder that can be written, with room for the artifacts',
    cause,
  });
}
