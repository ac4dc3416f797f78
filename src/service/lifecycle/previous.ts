import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { syncFileSystem } from '../../host/calls/descriptor.ts';
import { tryLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import { setAside } from '../../host/state/damage.ts';
import { copyTree } from '../../image/tree/clone.ts';
import type { InstanceFiles } from '../instance-files.ts';
import { copyVar, replaceVar } from './var-volume.ts';

/**
 * The copy of a service from before an upgrade: its /etc, its /var and its image. While it exists, the upgrade
 * is not finished. If nobody holds the lock, the upgrading process died, and the service is restored.
 */
function previousDirectory(files: InstanceFiles): string {
  return join(files.directory, 'previous');
}

function varIn(directory: string): { readonly var: string; readonly varImage: string } {
  return { var: join(directory, 'var'), varImage: join(directory, 'var.ext4') };
}

/** Held during an upgrade. */
export function upgradeLock(files: InstanceFiles): string {
  return join(files.directory, 'upgrade.lock');
}

/** Whether an upgrade is unfinished. */
export function hasPrevious(files: InstanceFiles): boolean {
  return existsSync(previousDirectory(files));
}

/** Copies a stopped service, as a whole or not at all. */
export async function keepPrevious(files: InstanceFiles): Promise<void> {
  const previous = previousDirectory(files);
  const half = `${previous}.half`;
  await removeTree(half);
  await mkdir(half, { mode: 0o700 });
  copyTree(files.etc, join(half, 'etc'));
  copyVar(files, varIn(half));
  const { image } = readImage(files.image);
  if (image !== undefined) writeRecord(join(half, 'image.json'), { image });
  await syncFileSystem(half);
  await rename(half, previous);
}

/** The image in an image.json; undefined if it is damaged, which starting the service reports. */
function readImage(path: string): { readonly image?: string | undefined } {
  return {
    image: findRecord(path, withFields<{ image: string }>({ image: 'string' })).value?.image,
  };
}

/** Deletes the copy after a successful upgrade. */
export async function forgetPrevious(files: InstanceFiles): Promise<void> {
  const previous = previousDirectory(files);
  const gone = `${previous}.gone`;
  await removeTree(gone);
  await rename(previous, gone);
  await removeTree(gone);
}

/** Restores a stopped service from the copy. Can be interrupted and repeated. */
export async function restorePrevious(files: InstanceFiles): Promise<void> {
  const previous = previousDirectory(files);
  const kept = join(previous, 'etc');
  if (existsSync(kept)) {
    const failed = `${files.etc}.failed`;
    await removeTree(failed);
    if (existsSync(files.etc)) await rename(files.etc, failed);
    await rename(kept, files.etc);
    await removeTree(failed);
  }
  await replaceVar(varIn(previous), files);
  const { image } = readImage(join(previous, 'image.json'));
  if (image === undefined) setAside(files.image);
  else writeRecord(files.image, { image }, { flush: true });
  await removeTree(previous);
}

/** Undoes the unfinished upgrade of a process that died. True if there was one. The service must not run. */
export async function undoAbandonedUpgrade(files: InstanceFiles): Promise<boolean> {
  if (!hasPrevious(files)) return false;
  await using lock = await tryLock(upgradeLock(files));
  if (lock === undefined || !hasPrevious(files)) return false;
  await restorePrevious(files);
  return true;
}
