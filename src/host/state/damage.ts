/**
 * Files of kiln's own that were damaged (a power cut, a full or failing disk, an editor): kiln reports the file
 * once, sets it aside, and goes on.
 */
import { renameSync, statSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { hasErrno, succeeds } from '../calls/libc.ts';
import { removeTreeNow } from '../files/remove-tree.ts';

export class DamagedFileError extends KilnError {
  readonly path: string;
  readonly why: string;

  constructor(path: string, why: string) {
    super('E_DAMAGED', `${path} is damaged: ${why}`);
    this.path = path;
    this.why = why;
  }
}

export interface Damage {
  readonly path: string;
  readonly why: string;
  readonly done: string;
}

type DamageListener = (damage: Damage) => void;

const listeners = new Set<DamageListener>();

/** Milliseconds, in which the same damage is not reported again: a daemon lives for days. */
const TOLD = 60_000;
const told = new Map<string, number>();

/**
 * Reports to `tell` instead of Node's warnings, until the result is disposed of. A daemon tells all its
 * listeners, because it does not know whose work met the damage.
 */
export function onDamage(tell: DamageListener): Disposable {
  listeners.add(tell);
  return { [Symbol.dispose]: () => listeners.delete(tell) };
}

export function damageText({ path, why, done }: Damage): string {
  return `${path} is damaged: ${why}; ${done}`;
}

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

/** Keeps the file for people to look at, in place of one that was set aside before. False if it is gone already. */
export function setAside(path: string): boolean {
  const aside = asidePath(path);
  removeTreeNow(aside);
  return succeeds(['ENOENT'], () => renameSync(path, aside));
}

/** A directory with that name is set aside: no file of kiln's is a directory. */
export function renameOver(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!hasErrno(error, 'EISDIR')) throw error;
    clearPlace(to);
    renameSync(from, to);
  }
}

export function clearPlace(path: string): void {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return;
  setAside(path);
  tellDamage({ path, why: 'it is a folder', done: `it lies in ${asidePath(path)} now` });
}
