import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  openSync,
  readlinkSync,
  symlinkSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { resultDirectoryError } from '../artifacts/destination.ts';
import { FileSystems } from '../artifacts/source.ts';
import type { Warning } from '../artifacts/warning.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno, unlessErrno } from '../host/calls/libc.ts';
import { BENEATH, O_PATH, openat2 } from '../host/files/at.ts';
import {
  below,
  foundAt,
  type HeldPath,
  heldParts,
  heldPath,
  nameHeld,
  ownPath,
} from '../host/files/held.ts';
import type { HowOpened, Opener } from '../host/files/opener.ts';
import { isWithin } from '../host/files/user-file.ts';
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
import { copyResults } from './copies.ts';
import type { JobFolder } from './job-folder.ts';

export interface HeldPathsOptions {
  readonly opener: Opener;
  readonly cwd: () => string;
  readonly owner: { readonly uid: number; readonly gid: number };
  /** For links to what is open: many programs look at what a file is called. Undefined who has no state. */
  readonly makeFolder: (() => Promise<JobFolder>) | undefined;
  readonly warn: (warning: Warning) => void;
}

interface Held {
  /** What the caller calls it, whole. */
  readonly title: string;
  /** Where it was when it was opened, if something is written there. */
  readonly place?: string;
}

/** What was not there when it was looked for. Who needs it says so, with a hint of its own. */
const ABSENT = ['ENOENT', 'ENOTDIR'];

/** Root's, and those of a process that serves its own caller: used as they were opened, and held to the end. */
export class HeldPaths implements CallerPaths {
  readonly #options: HeldPathsOptions;
  readonly #held = new Map<number, Held>();
  readonly #links = new Map<string, string>();
  readonly #named = new Map<string, Disposable>();
  readonly #recipes = new Map<string, RecipeFolder>();
  #folder: JobFolder | undefined;

  constructor(options: HeldPathsOptions) {
    this.#options = options;
  }

  async file(path: string): Promise<HeldPath> {
    return await this.#link(await this.#open('file', path), path);
  }

  async text(path: string): Promise<HeldPath> {
    return await this.#link(await this.#open('text', path), path);
  }

  async content(path: string): Promise<HeldPath> {
    const fd = await this.#open('file', path);
    return fd === undefined ? await this.#link(fd, path) : this.#hold(fd, this.#title(path));
  }

  async tree(path: string): Promise<HeldPath> {
    return await this.#link(await this.#open('place', path), path);
  }

  async recipe(path: string): Promise<HeldPath> {
    const recipe = await this.text(path);
    const folder = await this.#open('place', dirname(path));
    if (folder === undefined) return recipe;
    this.#hold(folder, dirname(this.#title(path)));
    this.#recipes.set(recipe, { open: (name) => openat2(folder, name, BENEATH) });
    return recipe;
  }

  folderOf(recipe: string): RecipeFolder | undefined {
    return this.#recipes.get(recipe);
  }

  async holdName(path: string, how: 'place' | 'text' = 'place'): Promise<void> {
    const name = this.#title(path);
    if (this.#named.has(name)) return;
    const isBelow = [...this.#named.keys()].some((held) => isWithin(name, held));
    const fd = isBelow
      ? unlessErrno(ABSENT, () => openSync(foundAt(name), O_PATH))
      : await this.#open(how, path);
    if (fd !== undefined) this.#hold(fd, name);
    // Somebody may have asked for it meanwhile.
    if (this.#named.has(name)) return;
    // A recipe's folder is told by the name that has no links in it, too.
    const real = fd === undefined ? name : readlinkSync(heldPath(fd));
    for (const each of new Set([name, real])) this.#named.set(each, nameHeld(each, fd));
  }

  async place(path: string): Promise<HeldPath> {
    try {
      return this.#hold(await this.#options.opener.open('place', path), this.#title(path));
    } catch (cause) {
      throw new KilnError('E_BIND', `cannot bind ${path}`, {
        hint: 'SRC of --bind SRC:DST is a file or folder of this host: make it first',
        cause,
      });
    }
  }

  async results(path: string): Promise<HeldPath> {
    const held = heldParts(path);
    if (held !== undefined && this.#held.has(held.fd)) return path as HeldPath;
    return await this.#resultFolder('made', path);
  }

  async existing(path: string): Promise<HeldPath | undefined> {
    try {
      return await this.#resultFolder('folder', path);
    } catch (error) {
      if (hasErrno((error as Error).cause, 'ENOENT')) return undefined;
      throw error;
    }
  }

  loneResults(path: string): Promise<HeldPath> {
    return this.results(path);
  }

  async #resultFolder(how: 'folder' | 'made', path: string): Promise<HeldPath> {
    const title = this.#title(path);
    let fd: number | undefined;
    try {
      fd = await this.#options.opener.open(how, path === '' ? title : path);
      if (how === 'made') accessSync(heldPath(fd), constants.W_OK);
      if (new FileSystems().isPseudo(fd, fstatSync(fd, { bigint: true })))
        throw new Error('it is the kernel’s');
    } catch (cause) {
      if (fd !== undefined) closeSync(fd);
      const isKernels = how === 'made' && hasErrno(cause, 'ENOENT');
      const why = isKernels ? new Error('nothing can be made there: it is the kernel’s') : cause;
      throw resultDirectoryError(title, why);
    }
    return this.resultsTo(fd, title);
  }

  async resultAt(path: string): Promise<HeldPath> {
    const name = lastName(path);
    try {
      using place = closing(await this.#options.opener.open('place', dirname(path)));
      const fd = openSync(heldPath(place.fd), constants.O_RDONLY | constants.O_DIRECTORY);
      return below(this.resultsTo(fd, dirname(this.#title(path))), name);
    } catch (cause) {
      throw unusableError(path, cause);
    }
  }

  async write(path: string, how: 'anew' | 'more', text: string): Promise<void> {
    await writeOpened(this.#options.opener, path, how, (fd) =>
      writeText(fd, how, this.renamed(text)),
    );
  }

  resultsTo(to: number, title: string): HeldPath {
    return this.#hold(to, title, readlinkSync(heldPath(to)));
  }

  async give(from: string, path: string): Promise<void> {
    const { owner, warn } = this.#options;
    const { fd } = heldParts(await this.results(path)) ?? { fd: -1 };
    await copyResults(from, fd, path, { owner, warn });
  }

  nameOf(path: string): string | undefined {
    const name = this.renamed(path);
    return name === path ? undefined : name;
  }

  renamed<Value>(value: Value): Value {
    if (this.#held.size + this.#links.size === 0) return value;
    return withTexts(value, (text) =>
      withTitles(this.#withNames(text), (fd) => this.#held.get(fd)?.title),
    );
  }

  /** In place of links. */
  #withNames(text: string): string {
    if (this.#folder === undefined || !text.includes(this.#folder.path)) return text;
    return [...this.#links].reduce((named, [link, title]) => named.replaceAll(link, title), text);
  }

  async deliver(): Promise<void> {
    for (const [fd, { title, place }] of this.#held) {
      const now = place === undefined ? undefined : readlinkSync(heldPath(fd));
      if (now === place || fstatSync(fd).nlink === 0) continue;
      const message = `${title} was moved to ${now} after kiln had opened it: what was written is there`;
      this.#options.warn({ code: 'results-moved', message });
    }
  }

  #title(path: string): string {
    return resolve(this.#options.cwd(), path);
  }

  #hold(fd: number, title: string, place?: string): HeldPath {
    this.#held.set(fd, { title, ...(place === undefined ? {} : { place }) });
    return heldPath(fd);
  }

  /** Undefined for what is not there. @throws KilnError E_CALLER_FILE */
  async #open(how: HowOpened, path: string): Promise<number | undefined> {
    if (path === '') {
      throw new KilnError('E_CALLER_FILE', 'a path is empty', { hint: 'name a file or folder' });
    }
    try {
      return await this.#options.opener.open(how, path);
    } catch (cause) {
      if (hasErrno(cause, ...ABSENT)) return undefined;
      throw unusableError(path, cause);
    }
  }

  /** A name for what is open, with the caller's own at its end; it leads nowhere if nothing is. */
  async #link(fd: number | undefined, path: string): Promise<HeldPath> {
    const { makeFolder } = this.#options;
    if (makeFolder === undefined && fd !== undefined) return this.#hold(fd, this.#title(path));
    if (makeFolder === undefined) return ownPath(this.#title(path));
    this.#folder ??= await makeFolder();
    const link = ownPath(join(this.#folder.inner(), nameIn(path)));
    const title = this.#title(path);
    this.#links.set(link, title);
    if (fd !== undefined) symlinkSync(this.#hold(fd, title), link);
    return link;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const name of this.#named.values()) name[Symbol.dispose]();
    this.#named.clear();
    for (const fd of this.#held.keys()) closeSync(fd);
    this.#held.clear();
    await this.#folder?.[Symbol.asyncDispose]();
    this.#folder = undefined;
  }
}
