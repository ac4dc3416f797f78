/**
 * What a caller's paths come to. A path is looked up once, by the caller's own client and with the caller's rights,
 * before anything foreign runs; everybody else has a descriptor.
 */
import { fstatSync, ftruncateSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { reasonLine } from '../host/calls/system-error.ts';
import { type HeldPath, heldPrefix } from '../host/files/held.ts';
import type { Opener } from '../host/files/opener.ts';
import type { RecipeFolder } from '../recipe/folder.ts';
import type { Bind, WantedBind } from '../sandbox/policy/specification.ts';

export interface CallerPaths extends AsyncDisposable {
  /** A file that is read, under its own name. @throws KilnError E_CALLER_FILE */
  file(path: string): Promise<HeldPath>;
  /** As file(), for what errors may quote: no link leads out of its folder. @throws KilnError E_CALLER_FILE */
  text(path: string): Promise<HeldPath>;
  /** A file whose name means nothing. @throws KilnError E_CALLER_FILE */
  content(path: string): Promise<HeldPath>;
  /**
   * A folder or a file. A user's folder is a copy, with links as they are or only those to something else in it.
   * @throws KilnError E_CALLER_FILE
   */
  tree(path: string, links: 'as they are' | 'inside'): Promise<HeldPath>;
  /** A build recipe, and the folder that it lies in. @throws KilnError E_CALLER_FILE */
  recipe(path: string): Promise<HeldPath>;
  /** Of what recipe() gave; undefined for a recipe that is not the caller's. */
  folderOf(recipe: string): RecipeFolder | undefined;
  /**
   * What else a caller's words lead to: it is opened, and held, under its name, which kiln goes on to use: foundAt()
   * leads to it. Of a user, only copies are named.
   * @param how `text` for a file that errors may quote
   * @throws KilnError E_CALLER_FILE
   */
  holdName(path: string, how?: 'place' | 'text'): Promise<void>;
  /** What is to be bound, as it is. @throws KilnError E_BIND, E_CALLER_FILE */
  place(path: string): Promise<HeldPath>;
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
  /** What the caller calls a path, whole; undefined if it is not the caller's. */
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

/** A text with titles in place of the names of open files. */
export function withTitles(text: string, titleOf: (fd: number) => string | undefined): string {
  const prefix = heldPrefix();
  if (!text.includes(prefix)) return text;
  const [first = '', ...others] = text.split(prefix);
  const named = others.map((other) => {
    const [number = ''] = /^\d*/.exec(other) ?? [];
    const title = number === '' ? undefined : titleOf(Number(number));
    return title === undefined ? `${prefix}${other}` : `${title}${other.slice(number.length)}`;
  });
  return [first, ...named].join('');
}

/** Binds, with what they name opened. @throws KilnError E_BIND, E_CALLER_FILE */
export async function heldBinds(
  wanted: readonly WantedBind[],
  paths: { place(path: string): Promise<HeldPath> },
): Promise<Bind[]> {
  const binds: Bind[] = [];
  for (const bind of wanted) binds.push({ ...bind, place: await paths.place(bind.source) });
  return binds;
}

/** What a file or folder is called where it stands under its own name. */
export function nameIn(path: string): string {
  const name = basename(path);
  return name === '' || name === '.' || name === '..' ? 'files' : name;
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
export function unusableError(
  path: string,
  cause: unknown,
  code: ErrorCode = 'E_CALLER_FILE',
): KilnError {
  const said = cause instanceof Error ? reasonLine(cause) : String(cause);
  // What was opened is reopened by its number.
  const why = said.replace(/'\/proc\/(?:self|\d+)\/fd\/\d+'/, 'it');
  if (hasErrno(cause, 'EXDEV')) {
    const what = `${path} is a symbolic link that leads out of its folder`;
    return new KilnError(code, what, {
      hint: `a checkout may have brought it: name the file itself, which \`readlink -f ${path}\` prints`,
    });
  }
  return new KilnError(code, `you cannot use ${path}: ${why}`, {
    hint: 'kiln opens files with your rights: look at it with `ls -ld`',
    cause: why === said ? cause : undefined,
  });
}
