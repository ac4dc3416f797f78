import { randomBytes } from 'node:crypto';
import { chmod, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { counted } from '../counted.ts';
import { KilnError } from '../errors.ts';
import { withLock } from '../host/files/flock.ts';
import type { HeldPath } from '../host/files/held.ts';
import { ownPath } from '../host/files/held.ts';
import { KILN_VERSION } from '../host/state/paths.ts';
import { packageCount } from '../image/progress.ts';
import { optionsDigest } from '../jobs/chain/build-member.ts';
import { readMembers } from '../jobs/chain/member.ts';
import { Records, refuseBusy } from '../jobs/chain/records.ts';
import type { OptionalLayer } from '../sandbox/policy/layers.ts';
import { type FarmChain, FarmFiles, type FarmMember } from './chain.ts';
import {
  CONFIG_FILE,
  DAG_FILE,
  dagmanConfig,
  dagText,
  HOOK_FILE,
  hookScript,
  JOBSTATE_FILE,
  RUN_FILE,
  runScript,
  whyStepsWait,
} from './dag.ts';
import { type DoStep, isWorthAnother, planRound } from './plan.ts';
import { queued, removeDag, submitDag } from './pool.ts';
import { changesLock, isDone, resultsOf, workerOf } from './prepare.ts';
import { mayBeMended } from './publish.ts';
import { type FarmMemberReport, type FarmReport, Reporter } from './report.ts';

export interface FarmRequest
  extends Pick<FarmChain, 'resultDirectory' | 'options' | 'jobs' | 'continue' | 'recurse'> {
  readonly sources: readonly string[];
  readonly image: string;
}

export interface FarmContext {
  readonly owner: { readonly uid: number; readonly gid: number };
  /** The result directory. */
  readonly results: HeldPath;
  readonly doStep: DoStep;
  readonly program: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly allowMissing: readonly OptionalLayer[];
  readonly signal: AbortSignal;
  readonly onMember: (member: FarmMemberReport) => void;
  readonly onBuilding: (name: string, worker: string) => void;
  readonly onNote: (text: string) => void;
  readonly onChain: (id: string) => Promise<void>;
}

const LOOK_EVERY = 500;

/** Rounds of one call: each builds something, or is the last. */
const ROUNDS = 20;

/**
 * @param goesOn whether the DAG of an earlier call may be in the queue; it is followed then @throws KilnError
 * E_CHAIN_BUSY, E_CHAIN_CYCLE, E_BUILD_SOURCE, E_FARM_POOL, E_RESULTDIR
 */
export async function buildFarmChain(
  request: FarmRequest,
  context: FarmContext,
  goesOn = false,
): Promise<FarmReport> {
  const startedAt = new Date();
  const started = performance.now();
  const { resultDirectory } = request;
  using records = Records.make(context.results, context.owner);
  await using _lock = await records.lock();
  using files = FarmFiles.make(context.results, resultDirectory);
  let chain = await begin(request, files, goesOn);
  await context.onChain(chain.id);
  context.onNote(`chain ${chain.id} of ${packageCount(chain.members.length)}`);
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
    if (end === 'ended') refuseUnbegun(files);
    tell(chain, files, reports, context);
    if (end === 'removed') failure = interruptionError(chain.id, context.signal.reason);
    if (end === 'removed' || files.isStopped) break;
    for (const name of failedForGood(chain, files)) lost.add(name);
    if (!(await isWorthAnother(chain, files, records, lost))) break;
  }
  await withLock(changesLock(files), async () => {
    await using _results = await resultsOf(files, chain, records, (one) => isDone(files, one));
  });
  const members = chain.members.map(({ name }) => reports.get(name)!);
  const failed = members.find(({ exitStatus }) => exitStatus !== 0);
  return {
    id: chain.id,
    startedAt,
    members,
    repository: join(resultDirectory, 'repository/current'),
    exitStatus: failure === undefined ? (failed?.exitStatus ?? 0) : 130,
    failure,
    durationMs: performance.now() - started,
  };

  async function submit(plan: FarmChain, own: FarmFiles, { program, ...rest }: FarmContext) {
    const { allowMissing, environment } = rest;
    const nodeOf = new Map(plan.members.map(({ name, node }) => [name, node]));
    const nodes = plan.members.flatMap(({ name, node, needs }) => {
      const parents = needs.flatMap(({ member }) => nodeOf.get(member) ?? []);
      return node === null ? [] : [{ node, member: name, parents }];
    });
    for (const { node } of nodes) {
      own.forgetOutcome(node);
      for (const name of ['tried', 'log']) await rm(join(own.path, node, name), { force: true });
      // condor_submit_dag looks whether they are there; the PRE scripts write them.
      own.write(`${node}.sub`, '# written when the step is ready\n');
    }
    own.forget([JOBSTATE_FILE]);
    own.write(CONFIG_FILE, dagmanConfig());
    own.write(DAG_FILE, dagText(plan.id, nodes));
    own.write(RUN_FILE, runScript());
    own.write(HOOK_FILE, hookScript(program, resultDirectory, environment));
    for (const name of [RUN_FILE, HOOK_FILE]) await chmod(join(own.path, name), 0o755);
    const cluster = await submitDag(own.title, DAG_FILE, plan);
    const submitted = { ...plan, cluster };
    own.keep(submitted);
    context.onNote(`${counted(nodes.length, 'step')} submitted: kiln farm status ${plan.id}`);
    const asked = { version: KILN_VERSION, allowMissing, options: plan.options };
    const missing = await whyStepsWait(asked);
    if (missing !== undefined) context.onNote(`they wait: ${missing}`);
    return submitted;
  }
}

async function begin(request: FarmRequest, files: FarmFiles, goesOn: boolean): Promise<FarmChain> {
  const before = files.existing();
  if (before !== undefined && before.cluster !== null) {
    const isQueued = (await queued(before.cluster)).length > 0;
    if (isQueued && goesOn) return before;
    if (isQueued) refuseBusy(request.resultDirectory, `kiln farm resume ${before.id}`);
  }
  const id = goesOn ? before?.id : undefined;
  return await newChain(request, id ?? randomBytes(4).toString('hex'));
}

export async function newChain(request: FarmRequest, id: string): Promise<FarmChain> {
  const { sources, image, options } = request;
  const members = await readMembers(sources.map(ownPath), undefined);
  return {
    ...request,
    kind: 'kiln-farm-chain',
    format: 1,
    id,
    sources: [...sources],
    image: { name: image, id: null, lock: null },
    optionsDigest: optionsDigest({ ...options, image, caller: NOBODY }, undefined),
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

async function follow(
  chain: FarmChain,
  files: FarmFiles,
  reports: Map<string, FarmMemberReport>,
  context: FarmContext,
): Promise<'ended' | 'removed'> {
  const { cluster } = chain;
  if (cluster === null) return 'ended';
  const isOver = new RegExp(`^00([59]) \\(0*${cluster}\\.`, 'm');
  const byNode = new Map(chain.members.map((member) => [member.node, member]));
  const open = new Set<FarmMember>();
  const running = new Set<string>();
  let removed = false;
  for (let known = 0; ; ) {
    // A chain may have thousands of steps: only those that DAGMan says something of are looked at.
    const log = files.read(JOBSTATE_FILE) ?? '';
    const end = log.lastIndexOf('\n') + 1;
    for (const [, node = ''] of log.slice(known, end).matchAll(/^\d+ (s\d+) /gm)) {
      const member = byNode.get(node);
      if (member !== undefined) open.add(member);
    }
    known = end;
    const ended: FarmMember[] = [];
    for (const member of open) {
      const { node, name } = member;
      if (node === null) continue;
      if (files.outcome(node) !== undefined) {
        ended.push(member);
        open.delete(member);
      } else if (!running.has(node)) {
        const worker = await workerOf(join(files.path, node, 'log'));
        if (worker === undefined) continue;
        running.add(node);
        context.onBuilding(name, worker);
      }
    }
    tell(chain, files, reports, context, ended);
    const event = isOver.exec(files.read(`${DAG_FILE}.dagman.log`) ?? '')?.[1];
    if (event !== undefined) return event === REMOVED || removed ? 'removed' : 'ended';
    if (context.signal.aborted && !removed) {
      removed = true;
      await removeDag(cluster);
    }
    await sleep(LOOK_EVERY);
  }
}

/** @throws KilnError E_FARM_POOL where DAGMan has begun no step, with what it says of that */
function refuseUnbegun(files: FarmFiles): void {
  if (/^\d+ s\d+ /m.test(files.read(JOBSTATE_FILE) ?? '')) return;
  const log = `${DAG_FILE}.dagman.out`;
  const [, why] = /.* ERROR: (.*)/.exec(files.read(log) ?? '') ?? [];
  const what = 'HTCondor’s DAGMan ended before the first step of the chain';
  throw new KilnError('E_FARM_POOL', why === undefined ? what : `${what}: ${why}`, {
    hint: `${join(files.title, log)} says more`,
  });
}

/** The last digit of a job's event 009, “Job was aborted”; 005 is “Job terminated”. */
const REMOVED = '9';

function tell(
  chain: FarmChain,
  files: FarmFiles,
  reports: Map<string, FarmMemberReport>,
  { onMember }: FarmContext,
  members: readonly FarmMember[] = chain.members,
): void {
  if (members.length === 0) return;
  const reporter = new Reporter(chain, files);
  for (const member of members) {
    const report = reporter.reportOf(member);
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

function failedForGood(chain: FarmChain, files: FarmFiles): string[] {
  return chain.members.flatMap(({ name, node }) => {
    const outcome = node === null ? undefined : files.outcome(node);
    return outcome?.state === 'failed' && !mayBeMended(chain, outcome) ? [name] : [];
  });
}

function interruptionError(id: string, reason: unknown): KilnError {
  if (reason instanceof KilnError) return reason;
  return new KilnError('E_INTERRUPTED', `chain ${id} was taken out of the queue`);
}
