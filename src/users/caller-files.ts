/**
 * Files whose paths kiln does not resolve: the client opens them with the caller's rights. What a job reads
 * is copied into a folder that only root enters. Results are written there, and copied to the caller at the
 * end. Binds use the very file that the client opened.
 * Long, because all ways of copying share one budget and one list of names.
 */

import { randomUUID } from 'node:crypto';
import {
  closeSync,
  constants,
  existsSync,
  fchmodSync,
  fstatSync,
  mkdirSync,
  openSync,
  rmSync,
} from 'node:fs';
import { readdir } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { Budget, type CopyLimits } from '../artifacts/budget.ts';
import { copyContent, ReadFailed } from '../artifacts/content.ts';
import { Destination, type WithRights } from '../artifacts/destination.ts';
import { Inventory, LONGEST_PATH } from '../artifacts/manifest.ts';
import { fromText, quoteName } from '../artifacts/pattern.ts';
import { descriptorPath, FileSystems, listEntries } from '../artifacts/source.ts';
import { TreeCopy } from '../artifacts/tree-copy.ts';
import { type Warning, Warnings } from '../artifacts/warning.ts';
import type { ErrorCode } from '../error-codes.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { reasonLine } from '../host/calls/system-error.ts';
import { openat2 } from '../host/files/at.ts';
import { type HeldLock, lockUnlessHeld, tryLock } from '../host/files/flock.ts';
import { mountOf } from '../host/files/mount.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { refuseLowDisk } from '../host/state/disk-watch.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { BENEATH, type RecipeFolder } from '../recipe/folder.ts';
import { copyResults } from './copy-results.ts';

/** With the caller's rights: a client. `made` makes missing folders. */
export interface Opener {
  /** The asker closes the descriptor. @throws SyscallError */
  open(how: 'file' | 'place' | 'made', path: string): Promise<number>;
}

interface CallerFilesOptions {
  readonly opener: Opener;
  readonly cwd: string;
  readonly withRights: WithRights;
  readonly owner: { readonly uid: number; readonly gid: number };
  /** The most bytes that may be copied in, all together, and out. */
  readonly bytes: number;
  readonly warn: (warning: Warning) => void;
}

const LOCKED = '.lock';

function lockOf(folder: string): string {
  return `${folder}${LOCKED}`;
}

/** Each name takes memory of this process. */
const NAMES: Partial<CopyLimits> = { entries: 100_000, visited: 200_000, paths: 32 << 20 };

export function jobsFolder(paths: Pick<StatePaths, 'root'>): string {
  return join(paths.root, 'jobs');
}

export async function sweepJobs(paths: Pick<StatePaths, 'root'>): Promise<void> {
  const jobs = jobsFolder(paths);
  for (const name of await readdir(jobs).catch(() => [])) {
    if (!name.endsWith(LOCKED)) continue;
    const file = join(jobs, name);
    await using lock = await tryLock(file, { existing: true }).catch(() => undefined);
    if (lock === undefined) continue;
    await removeTree(file.slice(0, -LOCKED.length));
    rmSync(file, { force: true });
  }
}

export class CallerFiles implements AsyncDisposable {
  readonly folder: string;
  readonly #options: CallerFilesOptions;
  readonly #lock: HeldLock;
  readonly #lone: { readonly file: string; readonly lock: HeldLock }[] = [];
  readonly #places: number[] = [];
  readonly #results: { readonly from: string; readonly to: number; readonly path: string }[] = [];
  readonly #folders = new Map<string, RecipeFolder>();
  readonly #names = new Map<string, string>();
  readonly #budgets: { readonly in: Budget; readonly out: Budget };
  #count = 0;

  private constructor(folder: string, lock: HeldLock, options: CallerFilesOptions) {
    this.folder = folder;
    this.#lock = lock;
    this.#options = options;
    const { bytes } = options;
    const limits = { bytes, ...NAMES };
    const room = (more: number) => refuseLowDisk(folder, more);
    this.#budgets = { in: new Budget(limits, undefined, room), out: new Budget(limits) };
  }

  static async make(
    paths: Pick<StatePaths, 'root'>,
    options: CallerFilesOptions,
  ): Promise<CallerFiles> {
    const jobs = jobsFolder(paths);
    mkdirSync(jobs, { recursive: true, mode: 0o700 });
    for (;;) {
      const folder = join(jobs, randomUUID());
      const lock = await tryLock(lockOf(folder));
      // A sweep may have seen the lock before it was held.
      if (lock !== undefined && existsSync(lockOf(folder))) {
        mkdirSync(folder, { mode: 0o700 });
        return new CallerFiles(folder, lock, options);
      }
      await lock?.release();
    }
  }

  async file(path: string): Promise<string> {
    using from = closing(await this.#open('file', path));
    return await this.#copyFile(from.fd, path);
  }

  /** As the client has opened it, whatever it is. The asker looks at it, and closes it. @throws SyscallError */
  async asOpened(path: string): Promise<number> {
    return await this.#options.opener.open('file', path);
  }

  /**
   * A folder or a regular file. Links `inside`: only those that lead to another copied file, for programs
   * that follow links; a warning tells of the others. @throws KilnError E_CALLER_FILE
   */
  async tree(path: string, links: 'as they are' | 'inside'): Promise<string> {
    using place = closing(await this.#open('place', path));
    const isFolder = fstatSync(place.fd).isDirectory();
    const type = isFolder ? constants.O_DIRECTORY : constants.O_NONBLOCK | constants.O_NOCTTY;
    using from = closing(this.#reopen(path, place.fd, type));
    if (isFolder) return await this.#copyFolder(from.fd, path, links);
    return await this.#copyFile(from.fd, path);
  }

  async recipe(path: string): Promise<string> {
    const copy = await this.file(path);
    const folder = await this.#open('place', dirname(path));
    this.#places.push(folder);
    const { withRights } = this.#options;
    this.#folders.set(copy, {
      open: (name) => {
        const file = withRights(() => openat2(folder, name, BENEATH));
        // A folder may contain /proc, where this process's own files are open to its threads.
        if (!new FileSystems().isPseudo(file, fstatSync(file, { bigint: true }))) return file;
        closeSync(file);
        throw new Error(`${name} is no file of a disk`);
      },
    });
    return copy;
  }

  folderOf(copy: string): RecipeFolder | undefined {
    return this.#folders.get(copy);
  }

  /** A descriptor to be bound, open until the job is over. @throws KilnError E_CALLER_FILE, E_BIND */
  async place(path: string): Promise<number> {
    const place = await this.#open('place', path);
    this.#places.push(place);
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
    if (isFile && !new FileSystems().isPseudo(place, stats)) return place;
    const why = isFile ? 'it lies in /proc or /sys' : 'it is neither a file nor a folder';
    throw new KilnError('E_BIND', `cannot bind ${path}: ${why}`, {
      hint: 'devices, sockets, and what lies in /proc or /sys, are root’s to bind',
    });
  }

  async results(path: string): Promise<string> {
    return this.resultsTo(await this.#open('made', path, 'E_RESULTDIR'), path);
  }

  /**
   * Like results(), for builds: the files of two at once would be mixed.
   * @throws KilnError E_RESULTDIR_BUSY
   */
  async loneResults(path: string): Promise<string> {
    const to = await this.#open('made', path, 'E_RESULTDIR');
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

  /**
   * Like results(), for a folder that root keeps. The job owns the descriptor `to` from here on.
   * @param title what messages call it
   */
  resultsTo(to: number, title: string): string {
    const from = this.#newFolder();
    this.#results.push({ from, to, path: title });
    this.#names.set(from, title);
    return from;
  }

  async give(from: string, path: string): Promise<void> {
    const to = await this.#open('made', path, 'E_RESULTDIR');
    this.#results.push({ from, to, path });
  }

  async resultAt(path: string): Promise<string> {
    const name = basename(path);
    const parent = dirname(path);
    if (name === '' || name === '.' || name === '..') {
      const why = `${path} does not end with the name of a file or folder`;
      throw new KilnError('E_CALLER_FILE', why, {
        hint: 'write the path with the name at its end, not with . or ..',
      });
    }
    using place = closing(await this.#open('place', parent));
    const folder = this.resultsTo(this.#reopen(parent, place.fd, constants.O_DIRECTORY), parent);
    const inside = join(folder, name);
    this.#names.set(inside, path);
    return inside;
  }

  nameOf(copy: string): string | undefined {
    const name = this.#names.get(copy);
    return name === undefined ? undefined : resolve('/', this.#options.cwd, name);
  }

  renamed<Value>(value: Value): Value {
    if (typeof value === 'string') {
      if (!value.includes(this.folder)) return value;
      // Longer paths first, because they may lie in others.
      const names = [...this.#names].sort(([a], [b]) => b.length - a.length);
      return names.reduce<string>(
        (text, [copy, name]) => text.replaceAll(copy, name),
        value,
      ) as Value;
    }
    if (Array.isArray(value)) return value.map((item) => this.renamed(item)) as Value;
    if (typeof value !== 'object' || value === null) return value;
    const entries = Object.entries(value).map(([key, item]) => [key, this.renamed(item)]);
    return Object.fromEntries(entries) as Value;
  }

  async deliver(): Promise<void> {
    const { owner, withRights, warn } = this.#options;
    const budget = this.#budgets.out;
    for (const { from, to, path } of this.#results.splice(0)) {
      using _to = closing(to);
      await copyResults(from, to, path, { owner, writing: withRights, budget, warn });
    }
  }

  async #copyFolder(from: number, path: string, links: 'as they are' | 'inside'): Promise<string> {
    const { withRights } = this.#options;
    const folder = this.#newFolder(path);
    const to = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    using _to = closing(to);
    const budget = this.#budgets.in;
    const destination = new Destination({
      root: to,
      owner: { uid: 0, gid: 0 },
      replace: false,
      failure: (name, cause) =>
        new KilnError('E_CALLER_FILE', `${quoteName(name)} of ${path} cannot be copied`, {
          hint: 'root makes room in the state directory',
          cause,
        }),
    });
    const inventory = new Inventory(budget, LONGEST_PATH);
    const copy = new TreeCopy({
      ...{ budget, destination, inventory },
      warnings: new Warnings(this.#options.warn),
      links: links === 'inside' ? 'later' : 'now',
      reading: withRights,
    });
    const entries = this.#withRights(path, () => listEntries(from, budget));
    await copy.copyEntries({ from, to, source: fromText(path), path: '', depth: 1 }, entries);
    copy.makeLinks();
    destination.finish();
    return folder;
  }

  async #copyFile(from: number, path: string): Promise<string> {
    const stats = fstatSync(from, { bigint: true });
    if (!stats.isFile() || new FileSystems().isPseudo(from, stats)) {
      throw new KilnError('E_CALLER_FILE', `${path} is not a regular file`, {
        hint: 'only files and folders are copied for you: write what it gives into a file first',
      });
    }
    const copy = join(this.#newFolder(), nameOf(path));
    this.#names.set(copy, path);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    using to = closing(openSync(copy, flags, 0o600));
    try {
      const budget = this.#budgets.in;
      budget.spend('entries', 1);
      await copyContent(from, to.fd, Number(stats.size), Number(stats.blocks), budget);
      fchmodSync(to.fd, Number(stats.mode) & 0o777);
      return copy;
    } catch (error) {
      throw error instanceof ReadFailed ? unreadable(path, error.cause) : error;
    }
  }

  #newFolder(path?: string): string {
    const folder = join(this.folder, String(this.#count++));
    mkdirSync(folder, { mode: 0o700 });
    if (path === undefined) return folder;
    const inner = join(folder, nameOf(path));
    mkdirSync(inner, { mode: 0o755 });
    this.#names.set(inner, path);
    return inner;
  }

  async #open(how: 'file' | 'place' | 'made', path: string, code?: ErrorCode): Promise<number> {
    if (path === '') {
      const hint = 'name a file or folder';
      throw new KilnError(code ?? 'E_CALLER_FILE', 'a path is empty', { hint });
    }
    try {
      return await this.#options.opener.open(how, path);
    } catch (cause) {
      // An opener that opens nothing says why itself.
      if (isKilnCode(cause, 'E_FORBIDDEN')) throw cause;
      throw unreadable(path, cause, code);
    }
  }

  #reopen(path: string, place: number, flags: number): number {
    return this.#withRights(path, () =>
      openSync(descriptorPath(place), constants.O_RDONLY | flags),
    );
  }

  #withRights<Result>(path: string, act: () => Result): Result {
    try {
      return this.#options.withRights(act);
    } catch (cause) {
      throw unreadable(path, cause);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { to } of this.#results.splice(0)) closeSync(to);
    for (const place of this.#places.splice(0)) closeSync(place);
    for (const { file, lock } of this.#lone.splice(0)) {
      rmSync(file, { force: true });
      await lock.release();
    }
    await removeTree(this.folder);
    rmSync(lockOf(this.folder), { force: true });
    await this.#lock.release();
  }
}

function nameOf(path: string): string {
  const name = basename(path);
  return name === '' || name === '.' || name === '..' ? 'files' : name;
}

function unreadable(path: string, cause: unknown, code: ErrorCode = 'E_CALLER_FILE'): KilnError {
  const said = cause instanceof Error ? reasonLine(cause) : String(cause);
  // What the client has opened is reopened here by its number.
  const why = said.replace(/'\/proc\/self\/fd\/\d+'/, 'it');
  return new KilnError(code, `you cannot use ${path}: ${why}`, {
    hint: 'kiln opens files with your rights: look at it with `ls -ld`',
    cause: why === said ? cause : undefined,
  });
}
