/** DAGMan's POST script: a step's results become part of the chain's, as a whole or not at all. */
import { existsSync, readdirSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Owner } from '../artifacts/destination.ts';
import { writeText } from '../artifacts/staging.ts';
import { withLock } from '../host/files/flock.ts';
import { below, type HeldPath } from '../host/files/held.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { type MemberRecord, packagesAreThere, Records } from '../jobs/chain/records.ts';
import { MISSING } from '../jobs/chain/run.ts';
import type { FarmChain, FarmFiles, FarmMember } from './chain.ts';
import { changesLock, isDone, memberOf, resultsOf } from './prepare.ts';
import {
  type BuildOutcome,
  MAX_STEP,
  OUTCOME_FILE,
  parseBuildOutcome,
  STEP_STATUS,
} from './step.ts';

/**
 * @param status of the step, or what HTCondor says of one that has not ended by itself @returns the script's
 * exit status, which decides whether the step is tried again
 */
export async function publishStep(
  files: FarmFiles,
  node: string,
  status: number,
  owner: Owner,
): Promise<number> {
  const chain = files.chain();
  const member = memberOf(chain, node);
  using records = Records.open(files.top);
  const made = below(files.path, `${node}/out`);
  const outcome = readOutcome(files, node) ?? refusedStep(member, status);
  if (outcome === undefined || status === STEP_STATUS.machine) return STEP_STATUS.machine;
  return await withLock(changesLock(files), async () => {
    if (outcome.state === 'failed') {
      if (status !== STEP_STATUS.package) return STEP_STATUS.machine;
      if (existsSync(made) && onlyFiles(made)) await take(made, files, member, 'fail', owner);
      files.keepOutcome(node, outcome);
      if (!chain.continue && !mayBeMended(chain, outcome)) files.stop();
      return STEP_STATUS.package;
    }
    const known = records.builtFrom(member, chain.optionsDigest);
    if (outcome.state === 'unchanged') {
      if (known === undefined) return STEP_STATUS.machine;
    } else if (!(await publishBuilt(files, chain, member, outcome, made, records, owner))) {
      return STEP_STATUS.machine;
    }
    files.keepOutcome(node, outcome);
    await using _results = await resultsOf(files, chain, records, (one) => isDone(files, one));
    return STEP_STATUS.done;
  });
}

/** Failures that another result may mend are tried again in the next round. */
export function mayBeMended({ recurse }: FarmChain, { failure }: BuildOutcome): boolean {
  return recurse || (failure !== null && MISSING.has(failure.code));
}

function refusedStep({ name }: FarmMember, status: number): BuildOutcome | undefined {
  if (status !== STEP_STATUS.package) return undefined;
  const now = Date.now();
  return {
    ...{ kind: 'kiln-farm-build', format: 1, member: name, worker: '', state: 'failed' },
    ...{ exitStatus: 125, failedPhase: 'input', lastLines: [], root: null, requires: [] },
    ...{ packages: [], durationMs: 0, started: now, ended: now },
    failure: {
      code: 'E_FARM_STEP',
      message: `a worker does not do the step of ${name}`,
      hint: '`kiln farm logs` says why: is its kiln the same?',
    },
  };
}

function readOutcome(files: FarmFiles, node: string): BuildOutcome | undefined {
  using folder = files.node(node);
  using out = folder.existing('out');
  return parseBuildOutcome(out?.read(OUTCOME_FILE, MAX_STEP));
}

async function publishBuilt(
  files: FarmFiles,
  chain: FarmChain,
  member: FarmMember,
  outcome: BuildOutcome,
  made: HeldPath,
  records: Records,
  owner: Owner,
): Promise<boolean> {
  const { root, requires, packages, durationMs } = outcome;
  if (root === null || outcome.member !== member.name) return false;
  const used = new Set(root.packages);
  const isUsed = (other: FarmMember) =>
    other !== member &&
    records
      .builtFrom(other, chain.optionsDigest)
      ?.packages.some(({ sha256 }) => used.has(`sha256:${sha256}`));
  const record: MemberRecord = {
    format: 1,
    source: member.sha256,
    options: chain.optionsDigest,
    root: root.digest,
    requires,
    uses: chain.members
      .filter(isUsed)
      .map(({ name }) => name)
      .sort(),
    // Its lock names the worker's copy.
    snapshot: null,
    packages,
    durationMs,
  };
  if (!onlyFiles(made) || !(await packagesAreThere(made, record))) return false;
  records.forgetBuilt(member.name);
  await take(made, files, member, 'success', owner);
  records.keepBuilt(member.name, record);
  return true;
}

/** What others follow must lead nowhere. */
function onlyFiles(folder: string): boolean {
  return readdirSync(folder, { withFileTypes: true }).every((entry) => entry.isFile());
}

async function take(
  made: HeldPath,
  { top }: FarmFiles,
  { name }: FarmMember,
  mark: 'success' | 'fail',
  owner: Owner,
): Promise<void> {
  await rm(join(made, OUTCOME_FILE), { force: true });
  await writeText(made, mark, '', owner);
  const place = below(top, name);
  const before = `${made}.before`;
  await removeTree(before);
  if (existsSync(place)) await rename(place, before);
  await rename(made, place);
  await removeTree(before);
}
