import { spawn } from 'node:child_process';
import { parkTarget } from '../sandbox/parking.ts';
import type { StatePaths } from '../state/paths.ts';

/** Starts `kiln park` in the background when boxes are to be parked: it replaces what was claimed. */
export async function replaceParked(paths: StatePaths): Promise<void> {
  const main = process.argv[1];
  if (main === undefined || (await parkTarget(paths)) === 0) return;
  spawn(process.execPath, [...process.execArgv, main, 'park'], {
    detached: true,
    stdio: 'ignore',
  }).unref();
}
