/**
 * Damage that was found stays known, also to whoever comes after a kill: a record in the folder of the package or image
 * says so until that is thrown away or made anew. Whoever reads one with such a record finds none.
 */
import { existsSync, rmSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { withLock } from '../../host/files/flock.ts';
import { findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import { tellDamage } from '../../host/state/damage.ts';
import { UNPACKED_AGAIN } from '../../host/state/kinds.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { packageDamage, packageDirectory } from './entry.ts';
import { findContents, imageDirectory, imageFiles, imageIds } from './manifest.ts';
import { type KnownDamage, knownDamage, noteIn } from './mark.ts';
import { discard, ensureStore, neededPackages, packagesLock } from './work-directory.ts';

/** A damaged package. */
export interface FoundDamage extends KnownDamage {
  readonly digest: string;
  /** Of the package’s folder: another one of the same name is another unpacking. */
  readonly inode: number;
  /** The file of the package that images share; undefined where only kiln’s own record of it is damaged. */
  readonly file?: string | undefined;
}

/** What was found, until all packages and images have their record of it. */
function listFile({ store }: StatePaths): string {
  return join(store, 'damage.json');
}

const takeList = withFields<{ readonly found: readonly FoundDamage[] }>({ found: 'array' });

/** From the return on, and from a kill on, nobody takes the packages, or images that share the files. */
export async function noteDamage(paths: StatePaths, found: readonly FoundDamage[]): Promise<void> {
  if (found.length === 0) return;
  await withLock(packagesLock(paths), () => {
    const before = findRecord(listFile(paths), takeList).value?.found ?? [];
    writeRecord(listFile(paths), { found: [...before, ...found] }, { flush: true });
    settle(paths);
  });
}

/** Does what somebody has begun who was killed. */
export async function settleDamage(paths: StatePaths): Promise<void> {
  if (!existsSync(listFile(paths))) return;
  ensureStore(paths);
  await withLock(packagesLock(paths), () => settle(paths));
}

function settle(paths: StatePaths): void {
  const { value, damage } = findRecord(listFile(paths), takeList);
  if (damage !== undefined) {
    tellDamage({ ...damage, path: damage.path, done: '`kiln gc --verify` finds it again' });
  }
  for (const { digest, inode, path, why } of value?.found ?? []) {
    const directory = packageDirectory(paths, digest);
    if (statSync(directory, { throwIfNoEntry: false })?.ino === inode) {
      noteIn(directory, { path, why });
    }
  }
  const shared = new Map(
    value?.found.flatMap(({ digest, file, why }) => (file ? [[digest, { file, why }]] : [])),
  );
  for (const id of shared.size === 0 ? [] : imageIds(paths)) {
    const directory = imageDirectory(paths, id);
    const digest = findContents(paths, id).value?.linked.find((linked) => shared.has(linked));
    const of = digest === undefined ? undefined : shared.get(digest);
    if (of === undefined || knownDamage(directory) !== undefined) continue;
    noteIn(directory, { path: `${imageFiles.tree(directory)}${of.file}`, why: of.why });
  }
  rmSync(listFile(paths), { force: true });
}

/** Throws damaged packages away that no image is being made of. @returns the digests of those that stay */
export async function discardDamaged(paths: StatePaths): Promise<string[]> {
  await settleDamage(paths);
  const names = await readdir(paths.packages).catch(() => []);
  const damaged = names.filter((name) => packageDamage(join(paths.packages, name)) !== undefined);
  if (damaged.length === 0) return [];
  return await withLock(packagesLock(paths), async () => {
    const needed = await neededPackages(paths);
    const stay: string[] = [];
    for (const name of damaged) {
      const directory = join(paths.packages, name);
      const damage = packageDamage(directory);
      if (damage === undefined) continue;
      const isNeeded = needed.some((digest) => packageDirectory(paths, digest) === directory);
      tellDamage({
        ...damage,
        done: isNeeded ? 'it stays: an image is made of it' : UNPACKED_AGAIN,
      });
      if (isNeeded) stay.push(`sha256:${name}`);
      else await discard(paths, directory);
    }
    return stay;
  });
}

/** By their ids. */
export function damagedImages(paths: StatePaths): ReadonlyMap<string, KnownDamage> {
  const all = imageIds(paths).map((id) => [id, knownDamage(imageDirectory(paths, id))] as const);
  return new Map(all.flatMap(([id, damage]) => (damage === undefined ? [] : [[id, damage]])));
}
