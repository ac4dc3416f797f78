import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { readRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { BuildPhase } from './outcome/report.ts';
import type { BuildRequest } from './request.ts';

/** What is kept beside a sandbox that a build failed in. It goes with the sandbox. */
export interface KeptBuild {
  readonly request: BuildRequest;
  /** Of the source package. */
  readonly name: string;
  readonly failedPhase: BuildPhase;
  readonly topDirectory: string;
}

function keptFile(paths: StatePaths, sandbox: string): string {
  return join(paths.sandboxes, sandbox, 'build.json');
}

/** Notes how a build can go on in the sandbox it failed in. */
export async function rememberBuild(
  paths: StatePaths,
  sandbox: string,
  kept: KeptBuild,
): Promise<void> {
  const file = keptFile(paths, sandbox);
  writeRecord(file, kept);
}

const takeKept = withFields<KeptBuild>({
  request: 'object',
  name: 'string',
  failedPhase: 'string',
  topDirectory: 'string',
});

/** How a build can go on in the sandbox `sandbox`. @throws KilnError E_NO_SANDBOX; E_DAMAGED */
export async function readKept(paths: StatePaths, sandbox: string): Promise<KeptBuild> {
  const kept = /^[0-9a-f]+$/.test(sandbox)
    ? readRecord(keptFile(paths, sandbox), takeKept)
    : undefined;
  if (kept !== undefined) return kept;
  throw new KilnError('E_NO_SANDBOX', `no build was kept as ${sandbox}`, {
    hint: '`kiln ps` lists what is kept; `kiln build --keep` keeps the sandbox of a build that fails',
  });
}
