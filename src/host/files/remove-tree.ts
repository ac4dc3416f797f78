/**
 * Removes trees that sandboxes or packages filled. Node's `rm` works on paths, so it cannot remove one whose
 * paths are longer than PATH_MAX. Sources: unlinkat(2), openat2(2), renameat(2).
 */
import { randomBytes } from 'node:crypto';
import { constants, openSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, closing } from '../calls/descriptor.ts';
import { hasErrno, SyscallError } from '../calls/libc.ts';
import { DirectoryReader, openat2, renameat, SAME_DISK_DIRECTORY, unlinkat } from './at.ts';

/** Levels that are open at once. Deeper directories are moved up, so that nothing limits the depth. */
const OPEN_LEVELS = 32;

const TURN_MS = 10;

const TRIES = 1000;

const SHOWN_FAILURES = 5;

/**
 * Removes a file, a link itself, or a tree of any depth. Entries that vanish meanwhile are fine: several
 * processes may remove one tree. If an entry cannot be removed, the rest is. Lets the event loop turn.
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

/** Blocks: for small trees. @throws KilnError E_REMOVE */
export function removeTreeNow(path: Buffer | string): void {
  for (const _ of removal(path));
}

function* removal(path: Buffer | string): Generator<void> {
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
  using _parent = closing(parent);
  yield* new Removal(`${path}`).run(parent, Buffer.from(basename(bytes), 'latin1'));
}

interface Level {
  readonly name: Buffer;
  readonly fd: number;
  readonly entries: DirectoryReader;
  readonly inner: Buffer[];
  progress: boolean;
  incomplete: boolean;
  tries: number;
}

class Removal {
  readonly #path: string;
  readonly #levels: Level[] = [];
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
      for (const { name, isDirectory } of piece) {
        if (isDirectory || this.#unlink(level.fd, name)) level.inner.push(name);
      }
      return;
    }
    if (level.progress) this.#again(level);
    else this.#close(level, parent);
  }

  #again(level: Level): void {
    level.progress = false;
    level.entries.rewind();
  }

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
      const fd = openat2(directory, name, SAME_DISK_DIRECTORY);
      const entries = new DirectoryReader(fd);
      const state = { progress: false, incomplete: false, tries: 0 };
      this.#levels.push({ name, fd, entries, inner: [], ...state });
    });
  }

  #moveUp(level: Level, name: Buffer): void {
    const top = this.#levels[0]!;
    const unique = `.kiln-removed-${randomBytes(8).toString('hex')}`;
    if (this.#attempt(name, () => renameat(level.fd, name, top.fd, unique))) {
      top.progress = true;
    }
  }

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
    const what = `${this.#path} is not removed whole: ${lines.join(', ')}${more}`;
    return new KilnError('E_REMOVE', what, {
      hint: 'unmount what is mounted there (EBUSY, EXDEV), or clear `chattr +i` (EPERM); the next `kiln gc` tries again',
      cause: first,
    });
  }
}

function shown(path: string): string {
  const plain = path.replace(/[^\x20-\x7e]/g, '?');
  return plain.length <= 200 ? plain : `${plain.slice(0, 120)}…${plain.slice(-60)}`;
}
