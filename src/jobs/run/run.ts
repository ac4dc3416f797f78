import type { Collection } from '../../artifacts/collect.ts';
import type { CopyInItem } from '../../artifacts/copy-in.ts';
import type { Warning } from '../../artifacts/warning.ts';
import type { EgressEntry } from '../../egress/rule.ts';
import type { Engine } from '../../engine.ts';
import { isKilnCode, type KilnError } from '../../errors.ts';
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { sayAfter, withWaits } from '../../host/process/wait-for.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { imageFacts } from '../../image/store/manifest.ts';
import type { CommandStdio, RefusedCall, SandboxProcess } from '../../sandbox/command/process.ts';
import type { MachineFacts } from '../../sandbox/domain/ground.ts';
import type { KeptCommand, Plan } from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { CommandEnd, LimitHit, Measured } from '../../sandbox/door/supervise.ts';
import { Visitors } from '../../sandbox/door/visitors.ts';
import type { LeasedStack } from '../../snapshot/stack.ts';
import { collect, type Results } from './collect.ts';
import { unpackDisks } from './disk-images.ts';
import { planRun, readSecrets } from './plan.ts';
import { PathWatch, type RefusedPaths } from './refused-paths.ts';
import type { RunRequest } from './request.ts';
import { type Course, Timeline } from './timeline.ts';

/** A name that nobody else takes until it is disposed of; then the sandbox must have it. */
export interface TakenName extends AsyncDisposable {
  readonly name: string;
}

interface JobHooks {
  readonly takeName?: (() => Promise<TakenName>) | undefined;
  /** What other sandboxes of the caller's find it by on its networks. */
  readonly knownAs?: string | undefined;
  readonly entered?: (sandbox: string) => void;
  /** The steps have ended: signals go to the caller again. The answer aborts the collection of artifacts. */
  readonly ended?: () => AbortSignal;
  /** Aborts what comes before the steps. */
  readonly signal?: AbortSignal;
  readonly results?: Results;
  readonly warning: (warning: Warning) => void;
  /** Names in the result directory that no artifact may have. */
  readonly reserved?: readonly string[] | undefined;
  /** The proxy lets the command reach every public host, and tells which it reached. */
  readonly learnsEgress?: boolean;
}

export interface RunHooks extends JobHooks, CommandStdio {
  /** The command has just started: attach to its stdio, forward signals. `kill` ends everything in the sandbox. */
  readonly started: (command: SandboxProcess, kill: () => void) => void;
  /** The report tells of the paths that were refused. */
  readonly watchesPaths?: boolean;
}

/** One job in a sandbox of its own. */
interface Job {
  readonly request: RunRequest;
  readonly image: LeasedImage & Partial<LeasedStack>;
  readonly copyIn: readonly CopyInItem[];
  readonly hooks: JobHooks;
  readonly timeline: Timeline;
}

/** How the steps of a job ended. */
interface StepsEnd {
  readonly end: CommandEnd;
  readonly limitHit: LimitHit | null;
  readonly usage: CgroupUsage;
  readonly measured: Measured;
  readonly refused?: readonly RefusedCall[];
  readonly refusedPaths?: RefusedPaths | undefined;
  /** What further commands are like, if the sandbox is kept for them. */
  readonly kept: KeptCommand | undefined;
}

export interface RunReport extends StepsEnd, Course {
  readonly sandbox: string;
  readonly image: { readonly id: string; readonly name: string; readonly arch: string };
  readonly measured: Measured & {
    readonly limits?: CgroupLimits;
    readonly machine?: MachineFacts | undefined;
  };
  readonly egress?: readonly EgressEntry[] | undefined;
  readonly collection: Collection | undefined;
  readonly failure: KilnError | undefined;
  readonly warnings: readonly Warning[];
}

export interface FinishedRun extends RunReport {
  /** Destroys the sandbox, unless it is kept. */
  readonly remove: () => Promise<void>;
}

/**
 * Runs one command in a sandbox of its own and collects the artifacts; the caller removes the sandbox. Throws the
 * errors of each step, and the signal's reason; the sandbox is gone then, and `timeline` tells what was done. What
 * goes wrong with the artifacts is the report's `failure`: the command has ended by then.
 */
export async function run(
  engine: Engine,
  image: LeasedImage & Partial<LeasedStack>,
  request: RunRequest,
  hooks: RunHooks,
  timeline: Timeline = new Timeline(),
): Promise<FinishedRun> {
  const { signal, terminal, handOver, watchesPaths = false } = hooks;
  signal?.throwIfAborted();
  const { copyIn, keep } = request;
  const job = { request, image, copyIn, hooks, timeline };
  return await runJob(engine, job, async (sandbox, { command }) => {
    timeline.enter('start');
    using paths = watchesPaths ? await PathWatch.begin(sandbox) : undefined;
    const started = await sandbox.start(command, { terminal, handOver });
    // A signal that came meanwhile was for kiln itself.
    signal?.throwIfAborted();
    timeline.enter('command');
    new Visitors(sandbox, command, started.process);
    hooks.started(started.process, () => void sandbox.killAll().catch(() => undefined));
    const { exitCode, signal: endedBy, timeLimit, ...ended } = await started.ended();
    const end = { exitCode, signal: endedBy, timeLimit };
    const refusedPaths = await paths?.end();
    return { ...ended, end, refusedPaths, kept: keep === undefined ? undefined : command };
  });
}

/** The one way of a job: its sandbox, files into it, `steps`, the artifacts out of it, the report. */
export async function runJob<End extends StepsEnd>(
  engine: Engine,
  { request, image, copyIn, hooks, timeline }: Job,
  steps: (sandbox: PlannedSandbox, plan: Plan, warn: (warning: Warning) => void) => Promise<End>,
): Promise<End & FinishedRun> {
  const { signal, results, reserved } = hooks;
  const warnings: Warning[] = [];
  const warn = (warning: Warning) => {
    warnings.push(warning);
    hooks.warning(warning);
  };
  timeline.leave();
  const secrets = await readSecrets(request.secrets, signal);
  await using disks = await unpackDisks(engine, request, signal);
  const { learnsEgress } = hooks;
  const plan = planRun(engine, request, image, { learnsEgress, volumes: disks.volumes });
  const { samples } = timeline;
  const job = {
    open: async () => {
      await using taken = await hooks.takeName?.();
      const names = { name: taken?.name, knownAs: hooks.knownAs };
      return {
        sandbox: await PlannedSandbox.open(engine, plan, { secrets, signal, samples, ...names }),
      };
    },
    entered: (id: string) => {
      hooks.entered?.(id);
      if (copyIn.length > 0) timeline.enter('copy-in');
    },
    ...{ copyIn, endAfter: startLimit(request), keep: request.keep, timeline, warn, signal },
  };
  return await inSandbox(job, async ({ sandbox }) => {
    const ended = await steps(sandbox, plan, warn);
    timeline.enter('artifacts');
    const interrupted = hooks.ended?.();
    const limits = sandbox.ground.limits();
    const egress = await sandbox.closeEgress();
    for (const path of sandbox.changedProtected()) warn(changedWarning(path));
    if (ended.kept === undefined && request.artifacts.length === 0) {
      const written = await sandbox.layers.written().catch((error: unknown) => {
        // It was killed after its command had ended.
        if (isKilnCode(error, 'E_SANDBOX_GONE')) return [];
        throw error;
      });
      for (const target of written) warn(lostWarning(target));
    }
    // Binds do not count in the sandbox's own share, so the share limits the collection.
    const bytes = engine.owner?.share.disk;
    const { workdir } = plan.command;
    const where = { paths: engine.paths, workdir, bytes, reserved, warn, interrupted, results };
    const collected = await collect(sandbox, request, where);
    return {
      ...ended,
      sandbox: sandbox.id,
      image: imageFacts(image.manifest),
      ...timeline.course,
      measured: { ...ended.measured, limits, machine: sandbox.ground.machine },
      ...collected,
      warnings,
      egress,
    };
  });
}

function changedWarning(path: string): Warning {
  const message = `${JSON.stringify(path)} is not as it was: your own tools may run what it says, so read it first; it was not there to be protected`;
  return { code: 'protected-changed', path, message };
}

function lostWarning(target: string): Warning {
  const message = `${JSON.stringify(target)} is bound with cow, and what was written there goes with the sandbox: --keep keeps it for \`kiln diff\` and \`kiln apply\``;
  return { code: 'changes-lost', path: target, message };
}

/** How long one process may keep a job from its start, ms: no longer than the job itself may take. */
function startLimit({ timeout }: RunRequest): number | undefined {
  return timeout === undefined ? undefined : Math.max(timeout, sayAfter());
}

interface SandboxJob<Opened> {
  readonly open: () => Promise<Opened>;
  /** The sandbox is open, and files come next. */
  readonly entered?: (sandbox: string) => void;
  readonly copyIn: readonly CopyInItem[];
  /** How long one process may keep the sandbox from its start, ms. */
  readonly endAfter?: number | undefined;
  /** How long a sandbox is kept of which the steps say so, ms. */
  readonly keep: number | undefined;
  readonly timeline: Timeline;
  readonly warn: (warning: Warning) => void;
  readonly signal: AbortSignal | undefined;
}

/**
 * The way of every job through its sandbox: it is opened and gets files; then come the job's steps, which collect
 * what is wanted; then it is kept, or the caller removes it. After an error nothing is left of it.
 */
export async function inSandbox<
  Opened extends { readonly sandbox: PlannedSandbox },
  End extends { readonly kept: KeptCommand | undefined },
>(
  { open, entered, copyIn, endAfter, keep = 0, timeline, warn, signal }: SandboxJob<Opened>,
  steps: (opened: Opened) => Promise<End>,
): Promise<End & { readonly remove: () => Promise<void> }> {
  let remove: () => Promise<void> = async () => undefined;
  try {
    const opened = await timeline.phase('sandbox', async () => {
      const job = await withWaits({ endAfter, signal }, open);
      const { sandbox } = job;
      remove = () => timeline.phase('destroy', () => sandbox.close());
      entered?.(sandbox.id);
      signal?.throwIfAborted();
      if (copyIn.length > 0) await sandbox.tree.copyIn(copyIn, warn, signal);
      return job;
    });
    const end = await steps(opened);
    if (end.kept === undefined) return { ...end, remove };
    await opened.sandbox.keep(keep, end.kept);
    return { ...end, remove: async () => undefined };
  } catch (error) {
    timeline.fail();
    await remove();
    throw error;
  }
}
