import { spawn } from 'node:child_process';
import type { ImageManifest } from '../image/store/manifest.ts';
import { parkTarget } from '../sandbox/parking.ts';
import type { StatePaths } from '../state/paths.ts';

/** Runs a kiln command that goes on after this one has ended. */
function startInBackground(...args: readonly string[]): void {
  const main = process.argv[1];
  if (main === undefined) return;
  spawn(process.execPath, [...process.execArgv, main, ...args], {
    detached: true,
    stdio: 'ignore',
  }).unref();
}

/** Replaces a parked box that was claimed, when boxes are to be parked. */
export async function replaceParked(paths: StatePaths): Promise<void> {
  if ((await parkTarget(paths)) > 0) startInBackground('park');
}

/**
 * Writes an image that was made since `since` (milliseconds since the epoch) to the disk: until
 * that is done, it is good for this boot only.
 */
export function syncNewImage(manifest: ImageManifest, since: number): void {
  if (manifest.created >= since) startInBackground('gc', '--sync-only');
}

/** Writes what was changed in the store to the disk: until that is done, it is good for this boot only. */
export function syncChanges(): void {
  startInBackground('gc', '--sync-only');
}
