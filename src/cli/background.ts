import { freemem } from 'node:os';
import type { ImageManifest } from '../image/store/manifest.ts';
import { thisProgram } from '../kernel/own-node.ts';
import { spawnDetached } from '../kernel/spawn-detached.ts';
import { countParked, parkTarget, setParkTarget } from '../sandbox/parking.ts';
import type { StatePaths } from '../state/paths.ts';

/** Runs a kiln command that goes on after this one has ended. */
function startInBackground(...args: readonly string[]): void {
  const command = thisProgram(args);
  if (command !== undefined) spawnDetached(command);
}

/** What must stay free beside parked boxes, and what one of them is reckoned at, bytes. */
const SPARE_MEMORY = 512 << 20;
const BOX_MEMORY = 32 << 20;

/** How many more boxes can wait before memory is short. */
export function roomForParked(): number {
  return Math.max(0, Math.floor((freemem() - SPARE_MEMORY) / BOX_MEMORY));
}

/** How many boxes `KILN_PARK` asks for; none where memory is short. */
function wantedParked(): number {
  const count = Number(process.env.KILN_PARK ?? 0);
  if (!Number.isInteger(count) || count <= 0) return 0;
  return count <= roomForParked() ? count : 0;
}

/**
 * Replaces a parked box that was claimed, when boxes are to be parked: because `kiln park` was told
 * so, or the environment says so.
 */
export function replaceParked(paths: StatePaths): void {
  try {
    const target = parkTarget(paths) ?? 0;
    const wanted = target > 0 ? target : wantedParked();
    if (wanted === 0 || countParked(paths) >= wanted) return;
    if (target === 0) setParkTarget(paths, wanted);
    startInBackground('park');
  } catch {
    // The next run starts its box itself; this one's result stands.
  }
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
