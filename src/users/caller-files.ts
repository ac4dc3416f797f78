/**
 * Files whose paths kiln does not resolve: the client opens them with the caller's rights. What a job reads
 * is copied into a folder that only root enters. Results are written there, and copied to the caller at the
 * end. Binds use the very file that the client opened.
 */

import { closeSync, constants, fstatSync, mkdirSync, openSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { Budget, type CopyLimits } from '../artifacts/budget.ts';
import { resultDirectoryError, type WithRights } from '../artifacts/destination.ts';
import { descriptorPath, FileSystems } from '../artifacts/source.ts';
import type { Warning } from '../artifacts/warning.ts';
import type { ErrorCode } from '../error-codes.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { BENEATH, openat2 } from '../host/files/at.ts';
import { type HeldLock, lockUnlessHeld } from '../host/files/flock.ts';
import { below, type HeldPath, heldPath, ownPath } from '../host/files/held.ts';
import { mountOf } from '../host/files/mount.ts';
import type { Opener } from '../host/files/opener.ts';
import { refuseLowDisk } from '../host/state/disk-watch.ts';
import type { StateRoot } from '../host/state/paths.ts';
import type { RecipeFolder } from '../recipe/folder.ts';
import {
  type CallerPaths,
  lastName,
  nameIn,
  unusableError,
  withTexts,
  withTitles,
  writeOpened,
  writeText,
} from './caller-paths.ts';
import { copyFile, copyFolder, copyResults, usingRights } from './copies.ts';
import { JobFolder, lockOf } from './job-folder.ts';

interface CallerFilesOptions {
  readonly opener: Opener;
  readonly cwd: string;
  readonly withRights: WithRights;
  readonly owner: { readonly uid: number; readonly gid: number };
  /** The most bytes that may be copied in, all together, and out. */
  readonly bytes: number;
  readonly warn: (warning: Warning) => void;
}

/** Each name takes memory of this process. */
const NAMES: Partial<CopyLimits> = { entries: 100_000, visited: 200_000, paths: 32 << 20 };

export class CallerFiles implements CallerPaths {
  readonly folder: string;
  readonly #options: CallerFilesOptions;
  readonly #folder: JobFolder;
  readonly #lone: { readonly file: string; readonly lock: HeldLock }[] = [];
  readonly #places = new Map<number, string>();
  readonly #results: { readonly from: string; readonly to: number; readonly path: string }[] = [];
  readonly #folders = new Map<string, RecipeFolder>();
  readonly #names = new Map<string, string>();
  readonly #budgets: { readonly in: Budget; readonly out: Budget };

  private constructor(folder: JobFolder, options: CallerFilesOptions) {
    this.folder = folder.path;
    this.#folder = folder;
    this.#options = options;
    const { bytes } = options;
    const limits = { bytes, ...NAMES };
    const room = (more: number) => refuseLowDisk(folder.path, more);
    this.#budgets = { in: new Budget(limits, undefined, room), out: new Budget(limits) };
  }

  static async make(paths: StateRoot, options: CallerFilesOptions): Promise<CallerFiles> {
    return new CallerFiles(await JobFolder.make(paths), options);
  }

  async file(path: string): Promise<HeldPath> {
    using from = closing(await this.#open('file', path));
    return await this.#copyFile(from.fd, path);
  }

  async text(path: string): Promise<HeldPath> {
    using from = closing(await this.#open('text', path));
    return await this.#copyFile(from.fd, path);
  }

  content(path: string): Promise<HeldPath> {
    return this.file(path);
  }

  /** As the client has opened it, whatever it is. The asker looks at it, and closes it. @throws SyscallError */
  async asOpened(path: string): Promise<number> {
    return await this.#options.opener.open('file', path);
  }

  /**
   * A folder or a regular file. Links `inside`: only those that lead to another copied file, for programs
   * that follow links; a warning tells of the others. @throws KilnError E_CALLER_FILE
   */
  async tree(path: string, links: 'as they are' | 'inside'): Promise<HeldPath> {
    using place = closing(await this.#open('place', path));
    const isFolder = fstatSync(place.fd).isDirectory();
    const type = isFolder ? constants.O_DIRECTORY : constants.O_NONBLOCK | constants.O_NOCTTY;
    using from = closing(this.#reopen(path, place.fd, type));
    if (isFolder) return await this.#copyFolder(from.fd, path, links);
    return await this.#copyFile(from.fd, path);
  }

  async holdName(): Promise<void> {}

  async recipe(path: string): Promise<HeldPath> {
    const copy = await this.text(path);
    const folder = await this.#open('place', dirname(path));
    this.#places.set(folder, dirname(path));
    const { withRights } = this.#options;
    this.#folders.set(copy, {
      open: (name) => {
        const file = withRights(() => openat2(folder, name, BENEATH));
        // A folder may contain /proc, where this process's own files are open to its threads.
        if (!new FileSystems().isPseudo(file, fstatSync(file, { bigint: true }))) return file;
        closeSync(file);
        throw new Error(`${name} is not a file on a disk`);
      },
    });
    return copy;
  }

  async beside(recipe: string, name: string): Promise<string> {
    const path = join(dirname(this.nameOf(recipe) ?? '/'), name);
    using from = closing(this.#openBeside(recipe, name, path));
    const isFolder = fstatSync(from.fd).isDirectory();
    return await (isFolder
      ? this.#copyFolder(from.fd, path, 'inside')
      : this.#copyFile(from.fd, path));
  }

  #openBeside(recipe: string, name: string, path: string): number {
    try {
      const folder = this.#folders.get(recipe);
      if (folder === undefined) throw new Error('its folder is not open');
      return folder.open(name);
    } catch (cause) {
      if (hasErrno(cause, 'EXDEV', 'ELOOP')) throw cause;
      throw unusableError(path, cause);
    }
  }

  folderOf(copy: string): RecipeFolder | undefined {
    return this.#folders.get(copy);
  }

  /** A descriptor to be bound, open until the job is over. @throws KilnError E_CALLER_FILE, E_BIND */
  async place(path: string): Promise<HeldPath> {
    const place = await this.#open('place', path);
    this.#places.set(place, path);
    try {
      mountOf(place);
    } catch (cause) {
      throw new KilnError('E_BIND', `cannot bind ${path}: it lies on no mount of this host’s`, {
        cause,
        hint: 'a container, or a mount namespace of your own, has other mounts: call kiln outside of it',
      });
    }
    const stats = fstatSync(place, { bigint: true });
    const isFile = stats.isFile() || stats.isDirectory();
    if (isFile && !new FileSystems().isPseudo(place, stats)) return heldPath(place);
    const why = isFile ? 'it lies in /proc or /sys' : 'it is neither a file nor a folder';
    throw new KilnError('E_BIND', `cannot bind ${path}: ${why}`, {
      hint: 'devices, sockets, and what lies in /proc or /sys, are root’s to bind',
    });
  }

  async results(path: string): Promise<HeldPath> {
    if (this.#names.has(path)) return ownPath(path);
    return this.resultsTo(await this.#openResults(path), path);
  }

  async existing(path: string): Promise<HeldPath> {
    if (this.#names.has(path)) return ownPath(path);
    throw new KilnError('E_FORBIDDEN', `${path} is not read for users: kilnd only writes results`, {
      hint: 'root can; docs/users.md says what users can do',
    });
  }

  async loneResults(path: string): Promise<HeldPath> {
    if (this.#names.has(path)) return ownPath(path);
    const to = await this.#openResults(path);
    const from = this.resultsTo(to, path);
    const { dev, ino } = fstatSync(to, { bigint: true });
    // With the user's rights, a file in the folder would be the user's. For this user alone: whoever can open a
    // folder would otherwise keep others from it.
    const name = `results-${this.#options.owner.uid}-${dev}-${ino}`;
    const file = lockOf(join(dirname(this.folder), name));
    const lock = await lockUnlessHeld(file);
    if (lock === undefined) {
      throw new KilnError('E_RESULTDIR_BUSY', `another build of yours writes to ${path}`, {
        hint: 'wait for its end, or name another --resultdir',
      });
    }
    this.#lone.push({ file, lock });
    return from;
  }

  resultsTo(to: number, title: string): HeldPath {
    const from = ownPath(this.#newFolder());
    this.#results.push({ from, to, path: title });
    this.#names.set(from, this.#absolute(title));
    return from;
  }

  async give(from: string, path: string): Promise<void> {
    const to = await this.#openResults(path);
    this.#results.push({ from, to, path });
  }

  async resultAt(path: string): Promise<HeldPath> {
    const name = lastName(path);
    const parent = dirname(path);
    using place = closing(await this.#open('place', parent));
    const folder = this.resultsTo(this.#reopen(parent, place.fd, constants.O_DIRECTORY), parent);
    const inside = below(folder, name);
    this.#names.set(inside, this.#absolute(path));
    return inside;
  }

  async write(path: string, how: 'anew' | 'more', text: string): Promise<void> {
    const { opener, withRights } = this.#options;
    await writeOpened(opener, path, how, (fd) =>
      withRights(() => writeText(fd, how, this.renamed(text))),
    );
  }

  nameOf(copy: string): string | undefined {
    const name = this.#names.get(copy);
    return name === undefined ? undefined : this.#absolute(name);
  }

  /** As root's results are told: whoever reads it may be in another folder. */
  #absolute(name: string): string {
    return resolve('/', this.#options.cwd, name);
  }

  renamed<Value>(value: Value): Value {
    // Longer paths first, because they may lie in others.
    const names = [...this.#names].sort(([a], [b]) => b.length - a.length);
    return withTexts(value, (text) => {
      const named = withTitles(text, (fd) => this.#places.get(fd));
      if (!named.includes(this.folder)) return named;
      return names.reduce((more, [copy, name]) => more.replaceAll(copy, name), named);
    });
  }

  async deliver(): Promise<void> {
    const { owner, withRights, warn } = this.#options;
    const budget = this.#budgets.out;
    for (const { from, to, path } of this.#results.splice(0)) {
      using _to = closing(to);
      await copyResults(from, to, path, { owner, writing: withRights, budget, warn });
    }
  }

  async #copyFolder(
    from: number,
    path: string,
    links: 'as they are' | 'inside',
  ): Promise<HeldPath> {
    const folder = ownPath(this.#newFolder(path));
    const { withRights, warn } = this.#options;
    await copyFolder(from, path, folder, {
      ...{ budget: this.#budgets.in, reading: withRights, warn },
      links: links === 'inside' ? 'later' : 'now',
    });
    return folder;
  }

  async #copyFile(from: number, path: string): Promise<HeldPath> {
    const copy = ownPath(join(this.#newFolder(), nameIn(path)));
    this.#names.set(copy, path);
    await copyFile(from, path, copy, this.#budgets.in);
    return copy;
  }

  #newFolder(path?: string): string {
    const folder = this.#folder.inner();
    if (path === undefined) return folder;
    const inner = join(folder, nameIn(path));
    mkdirSync(inner, { mode: 0o755 });
    this.#names.set(inner, path);
    return inner;
  }

  async #openResults(path: string): Promise<number> {
    try {
      return await this.#open('made', path, 'E_RESULTDIR');
    } catch (error) {
      const { cause } = error as Error;
      throw hasErrno(cause, 'ELOOP', 'ENOSPC') ? resultDirectoryError(path, cause) : error;
    }
  }

  async #open(
    how: 'file' | 'text' | 'place' | 'made',
    path: string,
    code?: ErrorCode,
  ): Promise<number> {
    if (path === '') {
      const hint = 'name a file or folder';
      throw new KilnError(code ?? 'E_CALLER_FILE', 'a path is empty', { hint });
    }
    try {
      return await this.#options.opener.open(how, path);
    } catch (cause) {
      // An opener that opens nothing says why itself.
      if (isKilnCode(cause, 'E_FORBIDDEN')) throw cause;
      throw unusableError(path, cause, code);
    }
  }

  #reopen(path: string, place: number, flags: number): number {
    const { withRights } = this.#options;
    const open = () => openSync(descriptorPath(place), constants.O_RDONLY | flags);
    return usingRights(withRights, path, open);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { to } of this.#results.splice(0)) closeSync(to);
    for (const place of this.#places.keys()) closeSync(place);
    this.#places.clear();
    for (const { file, lock } of this.#lone.splice(0)) {
      rmSync(file, { force: true });
      await lock.release();
    }
    await this.#folder[Symbol.asyncDispose]();
  }
}
