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

/** How long the maker of a claim may take to write its owner into it, ms. */
const WRITING = 10_000;

/** Whoever has a claim lives as long as this directory is there; without it the claim counts as free. */
export type Owner = string;

/**
 * Claims `name` for `owner`, which must exist. False when a living owner has it.
 * The claim is a file of that name in `directory`, made with O_EXCL, whose content names the owner.
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

/** Makes the folder that claims are in. It is locked, and who can open a folder can lock it: nobody else may. */
export function ensureClaims(directory: string): void {
  mkdirSync(directory, { recursive: true, mode: 0o700 });
}

/** Gives a claim back, if it is that owner's. */
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

/** Gives back all claims of an owner that nobody knows by name: its record is damaged. */
export async function releaseClaimsOf(directory: string, owner: Owner): Promise<void> {
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory)) await releaseClaim(directory, name, owner);
}

/**
 * Claims are made by anybody at any time, but removed by one process at a time: else one that has
 * found an abandoned claim would remove what another has made in its place.
 * @throws KilnError E_LOCKED where that process is stopped
 */
async function locked(directory: string, work: () => void): Promise<void> {
  await withLock(directory, work, { existing: true });
}

function removeAbandoned(path: string): void {
  if (ownerOf(path) === 'gone') rmSync(path, { force: true });
}

/** Whether a claim's owner lives; `gone` when its maker died before it wrote one. */
function ownerOf(path: string): 'living' | 'gone' | 'no claim' {
  const owner = read(path);
  if (owner === undefined) return 'no claim';
  if (owner === '') {
    // Being written right now; give it time before calling it abandoned.
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
