import { existsSync } from 'node:fs';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { acquireLock, tryLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { syncFileSystem } from '../../host/process/child-process.ts';
import { setAside } from '../../host/state/damage.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { refuseHostImage } from '../../image/host.ts';
import { type LeasedImage, leaseImage } from '../../image/store/images.ts';
import { copyTree } from '../../image/tree/clone.ts';
import type { ServiceStatus } from '../status.ts';
import { askSupervisor, isSupervised } from '../supervisor/supervisor-client.ts';
import { mergeTrees, planMerge } from './merge-trees.ts';
import { replacedConfiguration } from './owned-paths.ts';
import { requireStopped, stopService } from './start-stop.ts';
import {
  copyVar,
  filesIn,
  findImageId,
  type InstanceFiles,
  readService,
  writeImageId,
} from './store.ts';
import { Tree, treeEntries } from './tree.ts';

/** How long a service may take to become healthy, beside the time of its checks, ms. */
const SETTLE = 2000;
const LOOK_PAUSE = 200;

/**
 * Merges changes in /etc, adds what is new in the image's /var, and restarts the service if it ran. If it
 * does not start or is not healthy, everything goes back, including data. Throws E_UPGRADE_ROLLED_BACK with
 * the reason.
 */
export async function upgradeService(
  paths: StatePaths,
  name: string,
  image: LeasedImage,
  start: () => Promise<ServiceStatus>,
) {
  refuseHostImage(image.manifest, 'services');
  const { files } = await readService(paths, name);
  await using _lock = await acquireLock(files.upgradeLock);
  let ran = await isSupervised(files);
  if (hasPrevious(files)) {
    // This process holds the lock, so the one that made that upgrade died.
    ran = (await stopService(files)) || ran;
    await restorePrevious(files);
  }
  const service = await readService(paths, name);
  const report = { from: service.image, to: image.manifest.id };
  if (service.image === image.manifest.id) {
    if (ran && !(await isSupervised(files))) await start();
    return { ...report, changed: false, notes: [] };
  }
  // One that is to be started again, after a pause, ran as well.
  if (await stopService(files)) ran = true;
  await using _stopped = ran ? undefined : await requireStopped(name, files);
  await keepPrevious(files);
  try {
    const notes = await moveToImage(paths, name, image);
    if (ran) {
      await start();
      await waitUntilHealthy(paths, name);
    }
    await forgetPrevious(files);
    return { ...report, changed: true, notes };
  } catch (cause) {
    await stopService(files);
    await restorePrevious(files);
    if (ran) await start();
    throw new KilnError('E_UPGRADE_ROLLED_BACK', `${name} is back on its old image`, {
      cause,
      hint: `\`kiln service logs ${name}\` shows what it said on the new one`,
    });
  }
}

async function moveToImage(paths: StatePaths, name: string, image: LeasedImage): Promise<string[]> {
  const { files, image: oldId } = await readService(paths, name);
  await using old = oldId === undefined ? undefined : await leaseImage(paths, oldId);
  const merged = `${files.etc}.merged`;
  await removeTree(merged);
  copyTree(files.etc, merged);
  const newEtc = join(image.tree, 'etc');
  const theirs = treeEntries(newEtc);
  const mine = treeEntries(merged);
  // Without the old image nobody knows what was changed: every difference counts as a change.
  const base = old === undefined ? new Map() : treeEntries(join(old.tree, 'etc'));
  const replaced = await replacedConfiguration(paths, image.manifest.id);
  const notes = mergeTrees(newEtc, merged, planMerge(base, mine, theirs, replaced), theirs);
  await removeTree(files.etc);
  await rename(merged, files.etc);
  if (existsSync(files.varImage))
    notes.push('/var is an image: what the new one adds there is not added');
  else addToVar(join(image.tree, 'var'), files.var, old && join(old.tree, 'var'));
  writeImageId(files.image, image.manifest.id);
  return notes;
}

function addToVar(source: string, target: string, old: string | undefined): void {
  const theirs = treeEntries(source);
  const base = old === undefined ? new Map() : treeEntries(old);
  // Data is not compared: it may be large.
  using mine = Tree.open(target);
  const added = [...theirs.keys()].filter(
    (path) => !base.has(path) && mine.lstat(path) === undefined,
  );
  const actions = added.sort().map((path) => ({ do: 'take', path }) as const);
  mergeTrees(source, target, actions, theirs);
}

async function waitUntilHealthy(paths: StatePaths, name: string): Promise<void> {
  const { files, definition } = await readService(paths, name);
  const { health } = definition;
  const checks = health === undefined ? 0 : health.retries * (health.interval + health.timeout);
  const end = Date.now() + SETTLE + checks;
  for (let since = Date.now(); ; await sleep(LOOK_PAUSE)) {
    const status = await askSupervisor<ServiceStatus>(files, { do: 'status' });
    const state = status?.state ?? 'failed';
    const problem = status?.health?.text ?? '';
    if (state === 'failed' || status?.health?.state === 'unhealthy' || Date.now() > end) {
      throw new KilnError('E_UNHEALTHY', `${name} is ${state}${problem && `: ${problem}`}`);
    }
    const fine =
      state === 'running' && (health === undefined || status?.health?.state === 'healthy');
    if (!fine) since = Date.now();
    if (Date.now() - since >= SETTLE / 2) return;
  }
}

export function hasPrevious(files: InstanceFiles): boolean {
  return existsSync(files.previous);
}

export async function keepPrevious(files: InstanceFiles): Promise<void> {
  const { previous } = files;
  const half = `${previous}.half`;
  await removeTree(half);
  await mkdir(half, { mode: 0o700 });
  const copy = filesIn(half, '');
  copyTree(files.etc, copy.etc);
  copyVar(files, copy);
  const image = findImageId(files.image).value?.image;
  if (image !== undefined) writeImageId(copy.image, image);
  await syncFileSystem(half);
  await rename(half, previous);
}

async function forgetPrevious(files: InstanceFiles): Promise<void> {
  const { previous } = files;
  const gone = `${previous}.gone`;
  await removeTree(gone);
  await rename(previous, gone);
  await removeTree(gone);
}

/** The service is stopped. Can be interrupted and repeated. */
async function restorePrevious(files: InstanceFiles): Promise<void> {
  const kept = filesIn(files.previous, '');
  for (const part of ['etc', 'var', 'varImage'] as const) {
    if (!existsSync(kept[part])) continue;
    const failed = `${files[part]}.failed`;
    await removeTree(failed);
    if (existsSync(files[part])) await rename(files[part], failed);
    await rename(kept[part], files[part]);
    await removeTree(failed);
  }
  const image = findImageId(kept.image).value?.image;
  if (image === undefined) setAside(files.image);
  else writeImageId(files.image, image);
  await removeTree(files.previous);
}

export async function undoAbandonedUpgrade(files: InstanceFiles): Promise<boolean> {
  if (!hasPrevious(files)) return false;
  await using lock = await tryLock(files.upgradeLock);
  if (lock === undefined || !hasPrevious(files)) return false;
  await restorePrevious(files);
  return true;
}
