import { existsSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { acquireLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { type LeasedImage, leaseImage } from '../../image/store/images.ts';
import { copyTree } from '../../image/tree/clone.ts';
import type { ServiceStatus } from '../status.ts';
import { askSupervisor } from '../supervisor/supervisor-client.ts';
import { mergeTrees, planMerge } from './merge-trees.ts';
import { replacedConfiguration } from './owned-paths.ts';
import {
  forgetPrevious,
  hasPrevious,
  keepPrevious,
  restorePrevious,
  upgradeLock,
} from './previous.ts';
import { isSupervised, stopService } from './stop.ts';
import { readService, writeImageId } from './store.ts';
import { Tree, treeEntries } from './tree.ts';

/** How long a service may take to become healthy on its new image, beside the time of its checks, ms. */
const SETTLE = 2000;
const LOOK_PAUSE = 200;

export interface UpgradeReport {
  /** Undefined where the service's image.json is damaged. */
  readonly from: string | undefined;
  readonly to: string;
  /** False if the image was current already. */
  readonly changed: boolean;
  /** Notes for a person: .rpmnew and .rpmsave files. */
  readonly notes: readonly string[];
}

/**
 * Moves a service to another image: merges its changes in /etc, adds what is new in the image's /var, and
 * restarts it if it ran. If it does not start or is not healthy, everything goes back, including data. `start`
 * starts it in the background. Throws E_UPGRADE_ROLLED_BACK with the reason.
 */
export async function upgradeService(
  paths: StatePaths,
  name: string,
  image: LeasedImage,
  start: () => Promise<ServiceStatus>,
): Promise<UpgradeReport> {
  const { files } = await readService(paths, name);
  await using _lock = await acquireLock(upgradeLock(files));
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
  if (ran) await stopService(files);
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

/** Merges /etc and /var and writes the image's id. {@link restorePrevious} undoes it. */
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
  await writeImageId(files.image, image.manifest.id);
  return notes;
}

/** Adds entries that the new image's /var has and the old one's did not have. Data is not merged. */
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

/** Throws E_UNHEALTHY if the service does not run, or its health check fails, in time. */
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
