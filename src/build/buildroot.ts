import type { BuildrootLock } from '../repository/buildroot-lock.ts';
import { fetchPackages } from '../repository/fetch-packages.ts';
import type { Lock } from '../repository/lock.ts';
import { exportBuildrootLock } from '../solver/export-buildroot-lock.ts';
import type { BuildRun } from './build-run.ts';

/**
 * The text of mock's buildroot_lock.json for a root: these packages' headers are read for it.
 * @param below the text for the packages that are beside them
 */
export async function describeBuildroot(
  { engine, signal }: BuildRun,
  lock: Lock,
  below: string | undefined,
): Promise<string> {
  const others = below === undefined ? [] : (JSON.parse(below) as BuildrootLock).buildroot.rpms;
  const options = { paths: engine.paths, signal };
  const files = await fetchPackages(lock, options);
  const root = await exportBuildrootLock(lock, files, options, others);
  return `${JSON.stringify(root, undefined, 4)}\n`;
}
