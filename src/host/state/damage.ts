/**
 * What kiln does with a file of its own that is not what kiln wrote (a power cut, a full disk, a
 * failing one, an editor): it says so once, by name, puts the file aside, and goes on.
 */
import { renameSync, statSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../calls/libc.ts';
import { removeTreeNow } from '../files/remove-tree.ts';

/** A file of kiln's own that is not what kiln wrote. Its code is E_DAMAGED. */
export class DamagedFileError extends KilnError {
  readonly path: string;
  /** What is wrong with it, as the end of a sentence. */
  readonly why: string;

  constructor(path: string, why: string) {
    super('E_DAMAGED', `${path} is damaged: ${why}`);
    this.path = path;
    this.why = why;
  }
}

/** What was found, and what was done about it. */
export interface Damage {
  readonly path: string;
  readonly why: string;
  /** What becomes of it, as the end of a sentence: `it is made anew`. */
  readonly done: string;
}

type DamageListener = (damage: Damage) => void;

const listeners = new Set<DamageListener>();

/** How long the same is not told again, milliseconds: a daemon lives for days. */
const TOLD = 60_000;
const told = new Map<string, number>();

/**
 * Has damage told to somebody else than Node's warnings, until what it gives back is disposed of: command lines
 * print it. A daemon has several; it does not know whose work met it, and tells all of them.
 */
export function onDamage(tell: DamageListener): Disposable {
  listeners.add(tell);
  return { [Symbol.dispose]: () => listeners.delete(tell) };
}

/** One line for a person. */
export function damageText({ path, why, done }: Damage): string {
  return `${path} is damaged: ${why}; ${done}`;
}

/** Tells of damage, of each file once in a while. */
export function tellDamage(damage: Damage): void {
  const now = performance.now();
  if (now - (told.get(damage.path) ?? Number.NEGATIVE_INFINITY) < TOLD) return;
  told.set(damage.path, now);
  if (listeners.size === 0) process.emitWarning(damageText(damage), 'KilnWarning');
  for (const tell of listeners) tell(damage);
}

export function asidePath(path: string): string {
  return `${path}.damaged`;
}

/**
 * Puts a damaged file (or a directory in its place) aside, for whoever wants to look at it; one that
 * was put there before goes. False if it is gone already.
 */
export function setAside(path: string): boolean {
  const aside = asidePath(path);
  removeTreeNow(aside);
  try {
    renameSync(path, aside);
    return true;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

/** Gives a finished file its name. A directory that has that name, which no file of kiln's is, is put aside. */
export function renameOver(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!hasErrno(error, 'EISDIR')) throw error;
    clearPlace(to);
    renameSync(from, to);
  }
}

/** Puts a directory aside that lies where kiln is about to write a file. */
export function clearPlace(path: string): void {
  if (!isDirectory(path)) return;
  setAside(path);
  tellDamage({ path, why: 'it is a directory', done: `it lies in ${asidePath(path)} now` });
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}
