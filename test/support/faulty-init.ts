import { copyFile, readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { ensureSkeleton, INIT_PATH, noteInit } from '../../src/sandbox/domain/skeleton.ts';

const guest = join(import.meta.dirname, '../../src/guest');
const wire = join(import.meta.dirname, '../../dist/wire');

/**
 * Puts an init that can leave out layers into the skeleton of a state directory: compiled from the
 * same sources, with KILN_FAULTS. Sandboxes of that state started from now on have it.
 */
export async function installFaultyInit(paths: StatePaths): Promise<FaultyInit> {
  const skeleton = await ensureSkeleton(paths);
  const sources = (await readdir(guest)).filter((name) => name.endsWith('.c'));
  const faults = join(import.meta.dirname, 'faults.c');
  const built = join(paths.root, 'faulty-init');
  await execa({ cwd: guest })('cc', [
    ...['-std=c17', '-D_GNU_SOURCE', '-O1', '-static', '-DKILN_FAULTS'],
    ...['-I.', `-I${wire}`, '-o', built],
    ...sources,
    join(wire, 'wire.c'),
    faults,
  ]);
  // Not written in place: a sandbox may run the one that is there.
  await copyFile(built, `${skeleton}${INIT_PATH}.new`);
  await rename(`${skeleton}${INIT_PATH}.new`, join(skeleton, INIT_PATH));
  noteInit(skeleton);
  return {
    leaveOut: (...layers) =>
      writeFile(join(skeleton, 'faults'), layers.map((layer) => `${layer}\n`).join('')),
  };
}

export interface FaultyInit {
  /** What the sandboxes that start from now on do without. */
  leaveOut(...layers: readonly string[]): Promise<void>;
}
