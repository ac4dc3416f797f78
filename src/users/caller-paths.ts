/**
 * What a caller's paths come to. A path is looked up once, by the caller's own client and with the caller's rights,
 * before anything foreign runs; everybody else has a descriptor.
 */
import {
  accessSync,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, resolve } from 'node:path';
import { unusableResultDirectory } from '../artifacts/destination.ts';
import { FileSystems } from '../artifacts/source.ts';
import type { Warning } from '../artifacts/warning.ts';
import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { reasonLine } from '../host/calls/system-error.ts';
import { below, type HeldPath, heldParts, heldPath, heldPrefix } from '../host/files/held.ts';
import type { Opener } from '../host/files/opener.ts';
import { copyResults } from './copy-results.ts';

export interface CallerPaths extends AsyncDisposable {
  /** A folder for results, made if missing. One that is held already is that. @throws KilnError E_RESULTDIR */
  results(path: string): Promise<HeldPath>;
  /** A folder of results that is there already; undefined if nothing is. @throws KilnError E_RESULTDIR */
  existing(path: string): Promise<HeldPath | undefined>;
  /** For builds: of two into one folder at once, the files would be mixed. @throws KilnError E_RESULTDIR_BUSY */
  loneResults(path: string): Promise<HeldPath>;
  /** A file or folder that is written, in a folder that is there. @throws KilnError E_CALLER_FILE */
  resultAt(path: string): Promise<HeldPath>;
  /**
   * Writes a plain file that a CI service names. Its jobs may write to the folders above: no link on the way is followed.
   * @throws KilnError E_CI_JOB for a link; the system's error
   */
  write(path: string, how: 'anew' | 'more', text: string): Promise<void>;
  /** As results(), for a folder that is open; the job owns the descriptor. @param title what messages call it */
  resultsTo(to: number, title: string): HeldPath;
  /** Copies what is in `from`, a folder of kiln's own, to a folder of the caller's. */
  give(from: string, path: string): Promise<void>;
  /** What the caller calls a path; undefined if it is not the caller's. */
  nameOf(path: string): string | undefined;
  /** With the caller's names in all texts of a value. */
  renamed<Value>(value: Value): Value;
  /** Called once nothing more is written. */
  deliver(): Promise<void>;
}

/** The same value with all of its texts changed. */
export function withTexts<Value>(value: Value, change: (text: string) => string): Value {
  if (typeof value === 'string') return change(value) as Value;
  if (Array.isArray(value)) return value.map((item) => withTexts(item, change)) as Value;
  // A date, or the like, has none.
  if (typeof value !== 'object' || value === null || !isPlain(value)) return value;
  const entries = Object.entries(value).map(([key, item]) => [key, withTexts(item, change)]);
  return Object.fromEntries(entries) as Value;
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** @throws KilnError E_CALLER_FILE */
export function lastName(path: string): string {
  const name = basename(path);
  if (name !== '' && name !== '.' && name !== '..') return name;
  const why = `${path} does not end with the name of a file or folder`;
  throw new KilnError('E_CALLER_FILE', why, {
    hint: 'write the path with the name at its end, not with . or ..',
  });
}

/** @throws KilnError E_CI_JOB for a link; the system's error */
export async function writeOpened(
  opener: Opener,
  path: string,
  how: 'anew' | 'more',
  write: (fd: number) => void,
): Promise<void> {
  const opened = await opener.open(how, path).catch((cause: unknown) => {
    if (!hasErrno(cause, 'ELOOP')) throw cause;
    throw new KilnError('E_CI_JOB', `${path} is behind a symbolic link`, {
      hint: 'a job may have put it there; if it is yours, give the runner a folder without links in its path',
      cause,
    });
  });
  using file = closing(opened);
  write(file.fd);
}

/** To a file that is open; nothing to what is no plain file. */
export function writeText(fd: number, how: 'anew' | 'more', text: string): void {
  if (!fstatSync(fd).isFile()) return;
  if (how === 'anew') ftruncateSync(fd);
  writeFileSync(fd, text);
}

/** An error about a file that the caller has named. */
export function unusable(
  path: string,
  cause: unknown,
  code: ErrorCode = 'E_CALLER_FILE',
): KilnError {
  const said = cause instanceof Error ? reasonLine(cause) : String(cause);
  // What was opened is reopened by its number.
  const why = said.replace(/'\/proc\/(?:self|\d+)\/fd\/\d+'/, 'it');
  return new KilnError(code, `you cannot use ${path}: ${why}`, {
    hint: 'kiln opens files with your rights: look at it with `ls -ld`',
    cause: why === said ? cause : undefined,
  });
}

export interface HeldPathsOptions {
  readonly opener: Opener;
  readonly cwd: () => string;
  readonly owner: { readonly uid: number; readonly gid: number };
  readonly warn: (warning: Warning) => void;
}

/** Root's, and those of a process that serves its own caller: used as they were opened, and held to the end. */
export class HeldPaths implements CallerPaths {
  readonly #options: HeldPathsOptions;
  readonly #held = new Map<number, { readonly title: string; readonly place: string }>();

  constructor(options: HeldPathsOptions) {
    this.#options = options;
  }

  async results(path: string): Promise<HeldPath> {
    const held = heldParts(path);
    if (held !== undefined && this.#held.has(held.fd)) return path as HeldPath;
    return await this.#folder('made', path);
  }

  async existing(path: string): Promise<HeldPath | undefined> {
    try {
      return await this.#folder('folder', path);
    } catch (error) {
      if (hasErrno((error as Error).cause, 'ENOENT')) return undefined;
      throw error;
    }
  }

  async #folder(how: 'folder' | 'made', path: string): Promise<HeldPath> {
    const title = resolve(this.#options.cwd(), path);
    let fd: number | undefined;
    try {
      fd = await this.#options.opener.open(how, path === '' ? title : path);
      if (how === 'made') accessSync(heldPath(fd), constants.W_OK);
      if (new FileSystems().isPseudo(fd, fstatSync(fd, { bigint: true })))
        throw new Error('it is the kernel’s');
    } catch (cause) {
      if (fd !== undefined) closeSync(fd);
      throw unusableResultDirectory(title, cause);
    }
    return this.resultsTo(fd, title);
  }

  loneResults(path: string): Promise<HeldPath> {
    return this.results(path);
  }

  async resultAt(path: string): Promise<HeldPath> {
    const name = lastName(path);
    const title = resolve(this.#options.cwd(), path);
    try {
      using place = closing(await this.#options.opener.open('place', dirname(path)));
      const fd = openSync(heldPath(place.fd), constants.O_RDONLY | constants.O_DIRECTORY);
      return below(this.resultsTo(fd, dirname(title)), name);
    } catch (cause) {
      throw unusable(path, cause);
    }
  }

  async write(path: string, how: 'anew' | 'more', text: string): Promise<void> {
    await writeOpened(this.#options.opener, path, how, (fd) =>
      writeText(fd, how, this.renamed(text)),
    );
  }

  resultsTo(to: number, title: string): HeldPath {
    this.#held.set(to, { title, place: readlinkSync(heldPath(to)) });
    return heldPath(to);
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
    const prefix = heldPrefix();
    return withTexts(value, (text) => {
      if (this.#held.size === 0 || !text.includes(prefix)) return text;
      const [first = '', ...others] = text.split(prefix);
      const named = others.map((other) => {
        const [number = ''] = /^\d*/.exec(other) ?? [];
        const title = number === '' ? undefined : this.#held.get(Number(number))?.title;
        return title === undefined ? `${prefix}${other}` : `${title}${other.slice(number.length)}`;
      });
      return [first, ...named].join('');
    });
  }

  async deliver(): Promise<void> {
    for (const [fd, { title, place }] of this.#held) {
      const now = readlinkSync(heldPath(fd));
      if (now === place || fstatSync(fd).nlink === 0) continue;
      const message = `${title} was moved to ${now} after kiln had opened it: what was written is there`;
      this.#options.warn({ code: 'results-moved', message });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const fd of this.#held.keys()) closeSync(fd);
    this.#held.clear();
  }
}
