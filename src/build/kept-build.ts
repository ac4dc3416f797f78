import { join } from 'node:path';
import { KilnError } from '../errors.ts';
import { readRecord, withFields, writeRecord } from '../state/checked-file.ts';
import type { StatePaths } from '../state/paths.ts';
import type { BuildPhase } from './report.ts';
import type { BuildRequest } from './request.ts';

/** What is kept beside a box that a build failed in. It goes with the box. */
export interface KeptBuild {
  readonly request: BuildRequest;
  /** Of the source package. */
  readonly name: string;
  readonly failedPhase: BuildPhase;
  readonly topDirectory: string;
}

function keptFile(paths: StatePaths, box: string): string {
  return join(paths.boxes, box, 'build.json');
}

/** Notes how a build can go on in the box it failed in. */
export async function rememberBuild(
  paths: StatePaths,
  box: string,
  kept: KeptBuild,
): Promise<void> {
  const file = keptFile(paths, box);
  writeRecord(file, kept);
}

const takeKept = withFields<KeptBuild>({
  request: 'object',
  name: 'string',
  failedPhase: 'string',
  topDirectory: 'string',
});

/** How a build can go on in the box `box`. @throws KilnError E_NO_BOX; E_DAMAGED */
export async function readKept(paths: StatePaths, box: string): Promise<KeptBuild> {
  const kept = /^[0-9a-f]+$/.test(box) ? readRecord(keptFile(paths, box), takeKept) : undefined;
  if (kept !== undefined) return kept;
  throw new KilnError('E_NO_BOX', `no build was kept as ${box}`, {
    hint: '`kiln ps` lists what is kept; `kiln build --keep` keeps the sandbox of a build that fails',
  });
}
