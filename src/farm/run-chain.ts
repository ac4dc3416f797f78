/** A chain on a pool, from the submitting machine: rounds of a plan, a DAG, and what came of it. */
import { randomBytes } from 'node:crypto';
import { chmod, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { unusableResultDirectory } from '../artifacts/destination.ts';
import { KilnError } from '../errors.ts';
import { withLock } from '../host/files/flock.ts';
import { makeDirectory } from '../host/files/folder.ts';
import { optionsDigest } from '../jobs/chain/freshness.ts';
import { readMembers } from '../jobs/chain/member.ts';
import { Records } from '../jobs/chain/records.ts';
import { type FarmChain, FarmFiles, type FarmMember } from './chain.ts';
import {
  CONFIG_FILE,
  DAG_FILE,
  dagmanConfig,
  dagText,
  HOOK_FILE,
  hookScript,
  RUN_FILE,
  runScript,
} from './dag.ts';
import { isDone, recordOf, resultsOf } from './done.ts';
import { behind, type DoStep, planRound } from './plan.ts';
import { queued, removeDag, submitDag } from './pool.ts';
import { changesLock, workerOf } from './prepare.ts';
import { mayBeMended } from './publish.ts';
import { type FarmMemberReport, type FarmReport, reportOf } from './report.ts';
import type { StepOptions } from './step.ts';

/** What is asked of a pool. */
export interface FarmRequest {
  /** Source packages, absolute. */
  readonly sources: readonly string[];
  /** Absolute. */
  readonly resultDirectory: string;
  /** Of a recipe. */
  readonly image: string;
  readonly options: StepOptions;
  /** So many steps at a time; null: as many as the pool does. */
  readonly jobs: number | null;
  readonly continue: boolean;
  readonly recurse: boolean;
}

/** Who asks, and how this machine's kiln is called. */
export interface FarmContext {
  readonly owner: { readonly uid: number; readonly gid: number };
  readonly doStep: DoStep;
  /** The program that DAGMan's scripts call, absolute, and its environment. */
  readonly program: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly signal: AbortSignal;
  readonly onMember: (member: FarmMemberReport) => void;
  readonly onNote: (text: string) => void;
  /** Called with the id before anything is built. */
  readonly onChain: (id: string) => Promise<void>;
}

/** How often a DAG is looked at, milliseconds. */
const LOOK_EVERY = 500;

/** Rounds of one call: each builds something, or is the last. */
const ROUNDS = 20;

/**
 * Builds a chain on a pool, or goes on with one that is there.
 * @param goesOn whether the DAG of an earlier call may be in the queue; it is followed then
 * @throws KilnError E_CHAIN_BUSY, E_CHAIN_CYCLE, E_BUILD_SOURCE, E_FARM_POOL, E_RESULTDIR
 */
export async function buildFarmChain(
  request: FarmRequest,
  context: FarmContext,
  goesOn = false,
): Promise<FarmReport> {
  const started = performance.now();
  const { resultDirectory } = request;
  using records = await openRecords(request, context);
  await using _lock = await lockChain(records, resultDirectory);
  using files = FarmFiles.make(resultDirectory);
  let chain = await begin(request, files, goesOn);
  await context.onChain(chain.id);
  context.onNote(`chain ${chain.id} of ${chain.members.length} packages`);
  let failure: KilnError | undefined;
  const lost = new Set<string>();
  const reports = new Map<string, FarmMemberReport>();
  for (let round = 0; round < ROUNDS; round++) {
    if (chain.cluster === null) {
      chain = await planRound(chain, { files, records, doStep: context.doStep, lost });
      files.keep(chain);
      if (chain.members.every(({ node }) => node === null)) {
        tell(chain, files, reports, context);
        break;
      }
      chain = await submit(chain, files, context);
    }
    const end = await follow(chain, files, reports, context);
    chain = { ...chain, cluster: null };
    files.keep(chain);
    tell(chain, files, reports, context);
    if (end === 'removed') failure = interruption(context.signal.reason);
    if (end === 'removed' || files.isStopped) break;
    for (const name of failedForGood(chain, files)) lost.add(name);
    if (!(await isWorthAnother(chain, files, records, lost))) break;
  }
  await withLock(changesLock(files), async () => {
    // Of what is lost, earlier packages are taken out.
    await using _results = await resultsOf(chain, records, (one) => isDone(files, one));
  });
  const members = chain.members.map(({ name }) => reports.get(name)!);
  return {
    id: chain.id,
    members,
    repository: join(resultDirectory, 'repository/current'),
    exitStatus:
      failure === undefined
        ? (members.find(({ exitStatus }) => exitStatus !== 0)?.exitStatus ?? 0)
        : 130,
    failure,
    durationMs: performance.now() - started,
  };

  async function submit(plan: FarmChain, own: FarmFiles, { program, environment }: FarmContext) {
    const nodeOf = new Map(plan.members.map(({ name, node }) => [name, node]));
    const nodes = plan.members.flatMap(({ name, node, needs }) =>
      node === null
        ? []
        : [
            {
              node,
              member: name,
              parents: needs.flatMap(({ member }) => nodeOf.get(member) ?? []),
            },
          ],
    );
    for (const { node } of nodes) {
      own.forgetOutcome(node);
      for (const name of ['tried', 'log']) await rm(join(own.path, node, name), { force: true });
      // condor_submit_dag looks whether they are there; the PRE scripts write them.
      own.write(`${node}.sub`, '# written when the step is ready\n');
    }
    own.write(CONFIG_FILE, dagmanConfig());
    own.write(DAG_FILE, dagText(plan.id, nodes));
    own.write(RUN_FILE, runScript());
    own.write(HOOK_FILE, hookScript(program, resultDirectory, environment));
    for (const name of [RUN_FILE, HOOK_FILE]) await chmod(join(own.path, name), 0o755);
    const cluster = await submitDag(own.path, DAG_FILE, plan);
    const submitted = { ...plan, cluster };
    own.keep(submitted);
    context.onNote(`${nodes.length} steps submitted: kiln farm status ${plan.id}`);
    return submitted;
  }
}

async function openRecords(
  { resultDirectory }: FarmRequest,
  { owner }: FarmContext,
): Promise<Records> {
  try {
    await makeDirectory(resultDirectory, owner);
    return Records.open(resultDirectory);
  } catch (cause) {
    throw unusableResultDirectory(resultDirectory, cause);
  }
}

async function lockChain(records: Records, resultDirectory: string) {
  const lock = await records.lock();
  if (lock !== undefined) return lock;
  throw busy(resultDirectory, 'wait for its end, or name another --resultdir');
}

function busy(resultDirectory: string, hint: string): KilnError {
  return new KilnError('E_CHAIN_BUSY', `another chain works in ${resultDirectory}`, { hint });
}

async function begin(request: FarmRequest, files: FarmFiles, goesOn: boolean): Promise<FarmChain> {
  const before = files.existing();
  if (before !== undefined && before.cluster !== null) {
    const isQueued = (await queued(before.cluster)).length > 0;
    if (isQueued && goesOn) return before;
    if (isQueued) throw busy(request.resultDirectory, `kiln farm resume ${before.id}`);
  }
  const id = goesOn ? before?.id : undefined;
  return await newChain(request, id ?? randomBytes(4).toString('hex'));
}

/** A chain that is not planned yet. @throws what {@link readMembers} throws */
export async function newChain(request: FarmRequest, id: string): Promise<FarmChain> {
  const members = await readMembers(request.sources, undefined);
  return {
    kind: 'kiln-farm-chain',
    format: 1,
    id,
    sources: [...request.sources],
    resultDirectory: request.resultDirectory,
    image: { name: request.image, id: null, lock: null },
    options: request.options,
    optionsDigest: optionsDigest(
      { build: { ...request.options, image: request.image, caller: NOBODY } },
      undefined,
    ),
    jobs: request.jobs,
    continue: request.continue,
    recurse: request.recurse,
    members: members.map(({ name, path, sha256, requires, provides }) => ({
      ...{ name, path, sha256, node: null, current: false, needs: [], packages: [], durationMs: 0 },
      requires: [...requires],
      provides: [...provides],
    })),
    cluster: null,
    started: Date.now(),
  };
}

/** The digest does not depend on who asks. */
const NOBODY = { uid: 0, gid: 0 };

/**
 * Waits until a DAG is over, and tells what becomes of its steps; takes it away when that is wanted.
 * @returns whether it has ended by itself, or somebody has taken it out of the queue
 */
async function follow(
  chain: FarmChain,
  files: FarmFiles,
  reports: Map<string, FarmMemberReport>,
  context: FarmContext,
): Promise<'ended' | 'removed'> {
  const { cluster } = chain;
  if (cluster === null) return 'ended';
  const isOver = new RegExp(`^00([59]) \\(0*${cluster}\\.`, 'm');
  const running = new Set<string>();
  let removed = false;
  for (;;) {
    for (const { node, name } of chain.members) {
      if (node === null || running.has(node) || files.outcome(node) !== undefined) continue;
      const worker = await workerOf(join(files.path, node, 'log'));
      if (worker === undefined) continue;
      running.add(node);
      context.onNote(`${name}: building on ${worker}`);
    }
    tell(chain, files, reports, context, false);
    const event = isOver.exec(files.read(`${DAG_FILE}.dagman.log`) ?? '')?.[1];
    if (event !== undefined) return event === REMOVED || removed ? 'removed' : 'ended';
    if (context.signal.aborted && !removed) {
      removed = true;
      await removeDag(cluster);
    }
    await sleep(LOOK_EVERY);
  }
}

/** The last digit of a job's event 009, “Job was aborted”; 005 is “Job terminated”. */
const REMOVED = '9';

/** Tells of members whose state is another than before; of those that have not ended only when `all` is over. */
function tell(
  chain: FarmChain,
  files: FarmFiles,
  reports: Map<string, FarmMemberReport>,
  { onMember }: FarmContext,
  all = true,
): void {
  for (const member of chain.members) {
    const report = reportOf(chain, member, files);
    if (
      !all &&
      (member.node === null || report.state === 'skipped' || report.outcome === undefined)
    )
      continue;
    const before = reports.get(member.name);
    // What was built in an earlier round is unchanged in this one, and what has failed is not tried again.
    const isKept =
      (report.state === 'unchanged' && before?.state === 'built') ||
      (before?.state === 'failed' && member.node === null && !member.current);
    const kept = isKept && before !== undefined ? before : report;
    reports.set(member.name, kept);
    if (before?.state !== kept.state || before.outcome?.ended !== kept.outcome?.ended)
      onMember(kept);
  }
}

/** Members whose failure no other result mends. */
function failedForGood(chain: FarmChain, files: FarmFiles): string[] {
  return chain.members.flatMap(({ name, node }) => {
    const outcome = node === null ? undefined : files.outcome(node);
    return outcome?.state === 'failed' && !mayBeMended(chain, outcome) ? [name] : [];
  });
}

/**
 * Whether there is something to build that this round could not: what failed for want of results that are there
 * now, or was built before something that it asks for.
 */
async function isWorthAnother(
  chain: FarmChain,
  files: FarmFiles,
  records: Records,
  lost: ReadonlySet<string>,
): Promise<boolean> {
  const outcomes = chain.members.map((member) => ({
    member,
    outcome: member.node === null ? undefined : files.outcome(member.node),
  }));
  if (!outcomes.some(({ outcome }) => outcome?.state === 'built')) return false;
  const never = behind(chain.members, lost);
  const waits = outcomes.some(
    ({ member, outcome }) => outcome?.state === 'failed' && !never.has(member.name),
  );
  if (waits) return true;
  await using results = await resultsOf(chain, records, (one) => isDone(files, one));
  // A member asks for a result that it did not wait for.
  return chain.members.some((member) => {
    const record = recordOf(chain, member, records);
    if (record === undefined || never.has(member.name)) return false;
    const waited = ancestors(chain.members, member.name);
    return results
      .makersOf(record.requires, member.name)
      .some((name) => !waited.has(name) && !record.uses.includes(name));
  });
}

function ancestors(members: readonly FarmMember[], name: string): Set<string> {
  const byName = new Map(members.map((member) => [member.name, member]));
  const all = new Set<string>();
  const open = [name];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    for (const { member } of byName.get(next)?.needs ?? []) {
      if (all.has(member)) continue;
      all.add(member);
      open.push(member);
    }
  }
  return all;
}

function interruption(reason: unknown): KilnError {
  if (reason instanceof KilnError) return reason;
  return new KilnError('E_INTERRUPTED', 'the chain was taken out of the queue');
}
