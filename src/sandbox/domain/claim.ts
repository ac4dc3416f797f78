import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { hasErrno } from '../../host/calls/libc.ts';
import { withLock } from '../../host/files/flock.ts';

/** How long a maker may take to write the owner into its claim, ms. */
const WRITING = 10_000;

/** The directory of a claim's owner. The claim is free when the directory is gone. */
export type Owner = string;

/**
 * Claims `name` for `owner`, whose directory must exist. False if a living owner has it. A claim is a file of
 * that name in `directory`, made with O_EXCL, that contains its owner.
 */
export async function claim(directory: string, name: string, owner: Owner): Promise<boolean> {
  const path = join(directory, name);
  for (;;) {
    try {
      writeFileSync(path, owner, { flag: 'wx', mode: 0o600 });
      return true;
    } catch (error) {
      if (!hasErrno(error, 'EEXIST')) throw error;
    }
    const owned = ownerOf(path);
    if (owned === 'living') return false;
    if (owned === 'gone') await locked(directory, () => removeAbandoned(path));
  }
}

/** Makes the folder for claims. Only root can open it: whoever can open a folder can lock it. */
export function ensureClaims(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
}

/** Gives a claim back if this owner has it. */
export async function releaseClaim(directory: string, name: string, owner: Owner): Promise<void> {
  const path = join(directory, name);
  try {
    await locked(directory, () => {
      if (read(path) === owner) rmSync(path, { force: true });
    });
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
}

/** Gives back all claims of an owner whose record is damaged, so that their names are unknown. */
export async function releaseClaimsOf(directory: string, owner: Owner): Promise<void> {
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory)) await releaseClaim(directory, name, owner);
}

/**
 * Anybody makes claims at any time, but only one process removes claims at a time. Otherwise a process that
 * found an abandoned claim could remove a new one in its place. @throws KilnError E_LOCKED where that process
 * is stopped
 */
async function locked(directory: string, work: () => void): Promise<void> {
  await withLock(directory, work, { existing: true });
}

function removeAbandoned(path: string): void {
  if (ownerOf(path) === 'gone') rmSync(path, { force: true });
}

/** Whether a claim's owner lives; `gone` also if the maker died before it wrote an owner. */
function ownerOf(path: string): 'living' | 'gone' | 'no claim' {
  const owner = read(path);
  if (owner === undefined) return 'no claim';
  if (owner === '') {
    // The claim may be in the making: give it time before it counts as abandoned.
    const { mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? { mtimeMs: Date.now() };
    return Date.now() - mtimeMs > WRITING ? 'gone' : 'living';
  }
  return exists(owner) ? 'living' : 'gone';
}

function exists(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false;
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
