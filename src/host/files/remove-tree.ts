/**
 * Removes directory trees that sandboxes or packages filled. Node's `rm` works on paths, so it cannot remove a
 * tree whose paths are longer than PATH_MAX. Sources: unlinkat(2), openat2(2), getdents64(2), renameat(2).
 */
import { randomBytes } from 'node:crypto';
import { closeSync, constants, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { closeDescriptor } from '../calls/descriptor.ts';
import { hasErrno, SyscallError } from '../calls/libc.ts';
import { openat2, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, renameat, unlinkat } from './at.ts';
import { type DirectoryEntry, DirectoryReader } from './directory.ts';

/**
 * Levels that are open at the same time. Deeper directories are moved up to the top of the tree and removed
 * there, so neither descriptors nor the stack limit the depth.
 */
const OPEN_LEVELS = 32;

/** Milliseconds of work before the event loop gets its turn. */
const TURN_MS = 10;

/** How often a directory is read anew while other processes fill it. */
const TRIES = 1000;

/** Entries of the tree that an error names. */
const SHOWN_FAILURES = 5;

/** Never enters another file system that is mounted in the tree, and never follows a link. */
const REAL_DIRECTORY = {
  flags: constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW,
  resolve: RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS,
};

/**
 * Removes what is at `path`: a file, a link itself, or a tree of any depth. Links are not followed and mounts
 * are not entered. Entries that vanish meanwhile are fine: several processes may remove the same tree. If an
 * entry cannot be removed, the rest is removed all the same. Lets the event loop turn.
 * @throws KilnError E_REMOVE for what is left
 */
export async function removeTree(path: string): Promise<void> {
  let turnEnds = performance.now() + TURN_MS;
  for (const _ of removal(path)) {
    if (performance.now() < turnEnds) continue;
    await nextTurn();
    turnEnds = performance.now() + TURN_MS;
  }
}

/** Like {@link removeTree}, but synchronous: for small trees. @throws KilnError E_REMOVE */
export function removeTreeNow(path: Buffer | string): void {
  for (const _ of removal(path));
}

/** The work of both; yields at times so that the event loop can turn. */
function* removal(path: Buffer | string): Generator<void> {
  // Names are bytes: latin1 keeps every one of them.
  const bytes = Buffer.from(path).toString('latin1');
  let parent: number;
  try {
    const folder = Buffer.from(dirname(bytes), 'latin1');
    parent = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return;
    throw new KilnError('E_REMOVE', `${path} cannot be removed`, {
      cause: error,
      hint: 'the next `kiln gc` tries again',
    });
  }
  try {
    yield* new Removal(`${path}`).run(parent, Buffer.from(basename(bytes), 'latin1'));
  } finally {
    closeSync(parent);
  }
}

/** A directory that is being emptied. */
interface Level {
  /** Its name in the level above. */
  readonly name: Buffer;
  readonly fd: number;
  readonly entries: DirectoryReader;
  /** Directories found in the last piece that was read. */
  readonly inner: Buffer[];
  /**
   * Whether this pass removed something. Then it may have missed other entries, and the directory is read
   * again.
   */
  progress: boolean;
  /** An entry in the directory, or below it, could not be removed. */
  incomplete: boolean;
  /** How often the directory was not empty at the end of a pass. */
  tries: number;
}

class Removal {
  readonly #path: string;
  readonly #levels: Level[] = [];
  /** The first failure of each path: a second pass finds the same again. */
  readonly #failures = new Map<string, unknown>();
  #more = false;

  constructor(path: string) {
    this.#path = path;
  }

  *run(parent: number, name: Buffer): Generator<void> {
    try {
      if (!this.#unlink(parent, name)) return;
      this.#open(parent, name);
      while (this.#levels.length > 0) {
        this.#step(parent);
        yield;
      }
    } finally {
      for (const { fd } of this.#levels.splice(0)) closeDescriptor(fd);
    }
    if (this.#failures.size > 0) throw this.#error();
  }

  /** Enters one directory of the innermost level, reads more of that level, or ends the level. */
  #step(parent: number): void {
    const level = this.#levels.at(-1)!;
    const next = level.inner.pop();
    if (next !== undefined) {
      if (this.#levels.length < OPEN_LEVELS) this.#open(level.fd, next);
      else this.#moveUp(level, next);
      return;
    }
    const piece = level.entries.next();
    if (piece !== undefined) {
      for (const entry of piece) this.#entry(level, entry);
      return;
    }
    if (level.progress) this.#again(level);
    else this.#close(level, parent);
  }

  #again(level: Level): void {
    level.progress = false;
    level.entries.rewind();
  }

  /** Ends the innermost level, whose directory is empty unless something in it could not be removed. */
  #close(level: Level, parent: number): void {
    const above = this.#levels.at(-2);
    try {
      unlinkat(above?.fd ?? parent, level.name, { directory: true });
      if (above !== undefined) above.progress = true;
    } catch (error) {
      if (hasErrno(error, 'ENOTEMPTY')) {
        // Another process that removes the same tree moved a directory up into this one.
        if (!level.incomplete && level.tries++ < TRIES) {
          this.#again(level);
          return;
        }
        if (!level.incomplete) this.#fail(level.name, error);
      } else if (!hasErrno(error, 'ENOENT')) {
        this.#fail(level.name, error);
      }
    }
    this.#levels.pop();
    closeDescriptor(level.fd);
  }

  #entry(level: Level, { name, isDirectory }: DirectoryEntry): void {
    if (isDirectory) level.inner.push(name);
    else if (this.#unlink(level.fd, name)) level.inner.push(name);
  }

  /** Removes an entry that is not a directory. True if the entry is a directory. */
  #unlink(directory: number, name: Buffer): boolean {
    try {
      unlinkat(directory, name);
      const level = this.#levels.at(-1);
      if (level !== undefined) level.progress = true;
      return false;
    } catch (error) {
      if (hasErrno(error, 'EISDIR')) return true;
      if (!hasErrno(error, 'ENOENT')) this.#fail(name, error);
      return false;
    }
  }

  #open(directory: number, name: Buffer): void {
    this.#attempt(name, () => {
      const fd = openat2(directory, name, REAL_DIRECTORY);
      const entries = new DirectoryReader(fd);
      this.#levels.push({
        name,
        fd,
        entries,
        inner: [],
        progress: false,
        incomplete: false,
        tries: 0,
      });
    });
  }

  /** Moves a directory that lies too deep to the top of the tree; the next pass there finds it. */
  #moveUp(level: Level, name: Buffer): void {
    const top = this.#levels[0]!;
    const unique = `.kiln-removed-${randomBytes(8).toString('hex')}`;
    if (this.#attempt(name, () => renameat(level.fd, name, top.fd, unique))) {
      top.progress = true;
    }
  }

  /** True if `act` succeeded. An entry that is gone is no failure; one that remains is noted. */
  #attempt(name: Buffer, act: () => void): boolean {
    try {
      act();
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) this.#fail(name, error);
      return false;
    }
    return true;
  }

  #fail(name: Buffer, error: unknown): void {
    for (const level of this.#levels) level.incomplete = true;
    const names = this.#levels.slice(1).map((level) => `${level.name}/`);
    const path = this.#levels.length === 0 ? this.#path : `${this.#path}/${names.join('')}${name}`;
    if (this.#failures.size < SHOWN_FAILURES || this.#failures.has(path)) {
      this.#failures.set(path, error);
    } else {
      this.#more = true;
    }
  }

  #error(): KilnError {
    const [first] = this.#failures.values();
    const lines = [...this.#failures].map(([path, error]) => {
      const why = error instanceof SyscallError ? error.errnoName : (error as Error).message;
      return `${shown(path)} (${why})`;
    });
    const more = this.#more ? ' and others' : '';
    return new KilnError(
      'E_REMOVE',
      `${this.#path} is not removed whole: ${lines.join(', ')}${more}`,
      {
        hint: 'unmount what is mounted there (EBUSY, EXDEV), or clear `chattr +i` (EPERM); the next `kiln gc` tries again',
        cause: first,
      },
    );
  }
}

/** Names are hostile: control characters are escaped, and long paths are cut. */
function shown(path: string): string {
  const plain = path.replace(/[^\x20-\x7e]/g, '?');
  return plain.length <= 200 ? plain : `${plain.slice(0, 120)}…${plain.slice(-60)}`;
}
