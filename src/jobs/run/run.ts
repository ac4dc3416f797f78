import { type Collection, checkPatterns } from '../../artifacts/collect.ts';
import type { CopyInItem } from '../../artifacts/copy-in.ts';
import type { Warning } from '../../artifacts/warning.ts';
import { defined } from '../../defined.ts';
import type { EgressEntry } from '../../egress/rule.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { sayAfter, withWaits } from '../../host/process/wait-for.ts';
import { type LeasedImage, leaseImage } from '../../image/store/images.ts';
import type { RefusedCall, SandboxProcess } from '../../sandbox/command/process.ts';
import type { CommandStdio } from '../../sandbox/command/streams.ts';
import type { MachineFacts } from '../../sandbox/domain/ground.ts';
import type { LimitHit, Measured } from '../../sandbox/door/io.ts';
import type { KeptCommand, Plan } from '../../sandbox/door/plan.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { CommandEnd } from '../../sandbox/door/supervise.ts';
import { collect, type Results } from './collect.ts';
import { planRun, readSecrets } from './plan.ts';
import type { RunRequest } from './request.ts';
import { type Course, Timeline } from './timeline.ts';

interface JobHooks {
  readonly entered?: (sandbox: string) => void;
  /** The steps have ended: signals go to the caller again. The answer aborts the collection of artifacts. */
  readonly ended?: () => AbortSignal;
  /** Aborts what comes before the steps. */
  readonly signal?: AbortSignal;
  readonly results?: Results;
  readonly warning: (warning: Warning) => void;
}

export interface RunHooks extends JobHooks, CommandStdio {
  /** The command has just started: attach to its stdio, forward signals. `kill` ends everything in the sandbox. */
  readonly started: (command: SandboxProcess, kill: () => void) => void;
  readonly reserved?: Job['reserved'];
}

/** One job in a sandbox of its own. */
interface Job {
  readonly request: RunRequest;
  readonly image: LeasedImage;
  readonly copyIn: readonly CopyInItem[];
  readonly hooks: JobHooks;
  readonly timeline: Timeline;
  /** Names in the result directory that no artifact may have. */
  readonly reserved?: readonly string[];
}

/** How the steps of a job ended. */
interface StepsEnd {
  readonly end: CommandEnd;
  readonly limitHit: LimitHit | null;
  readonly usage: CgroupUsage;
  readonly measured: Measured;
  readonly refused?: readonly RefusedCall[];
  /** What further commands are like, if the sandbox is kept for them. */
  readonly kept: KeptCommand | undefined;
}

export interface RunReport extends StepsEnd, Course {
  readonly sandbox: string;
  readonly image: { readonly id: string; readonly name: string };
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
  request: RunRequest,
  hooks: RunHooks,
  timeline: Timeline = new Timeline(),
): Promise<FinishedRun> {
  const { signal, terminal, handOver } = hooks;
  signal?.throwIfAborted();
  if (request.resultDirectory !== undefined) checkPatterns(request.artifacts);
  timeline.enter('image');
  await using image = await takeImage(engine, request);
  const { copyIn, keep } = request;
  const job = { request, image, copyIn, hooks, timeline, ...defined({ reserved: hooks.reserved }) };
  return await runJob(engine, job, async (sandbox, { command }) => {
    timeline.enter('start');
    const started = await sandbox.start(command, { terminal, handOver });
    // A signal that came meanwhile was for kiln itself.
    signal?.throwIfAborted();
    timeline.enter('command');
    sandbox.receive(command, started.process);
    hooks.started(started.process, () => void sandbox.killAll().catch(() => undefined));
    const { exitCode, signal: endedBy, timeLimit, ...ended } = await started.ended();
    const end = { exitCode, signal: endedBy, timeLimit };
    return { ...ended, end, kept: keep === undefined ? undefined : command };
  });
}

/** The one way of a job: its sandbox, files into it, `steps`, the artifacts out of it, the report. */
export async function runJob<End extends StepsEnd>(
  engine: Engine,
  { request, image, copyIn, hooks, timeline, reserved }: Job,
  steps: (sandbox: PlannedSandbox, plan: Plan, warn: (warning: Warning) => void) => Promise<End>,
): Promise<End & FinishedRun> {
  const { signal, results } = hooks;
  const warnings: Warning[] = [];
  const warn = (warning: Warning) => {
    warnings.push(warning);
    hooks.warning(warning);
  };
  timeline.leave();
  const secrets = await readSecrets(request.secrets, signal);
  const plan = planRun(engine, request, image);
  timeline.enter('sandbox');
  const sandbox = await withWaits({ endAfter: startLimit(request), signal }, () =>
    PlannedSandbox.open(engine, plan, { secrets, signal, samples: timeline.samples }),
  );
  const remove = async () => {
    timeline.enter('destroy');
    await sandbox.close();
    timeline.leave();
  };
  try {
    hooks.entered?.(sandbox.id);
    signal?.throwIfAborted();
    if (copyIn.length > 0) {
      timeline.enter('copy-in');
      await sandbox.copyIn(copyIn, warn, signal);
    }
    timeline.leave();
    const ended = await steps(sandbox, plan, warn);
    const { kept } = ended;
    timeline.enter('artifacts');
    const interrupted = hooks.ended?.();
    const limits = sandbox.limits();
    const egress = await sandbox.closeEgress();
    // Binds do not count in the sandbox's own share, so the share limits the collection.
    const bytes = engine.owner?.share.disk;
    const { workdir } = plan.command;
    const where = { paths: engine.paths, workdir, bytes, reserved, warn, interrupted, results };
    const collected = await collect(sandbox, request, where);
    timeline.leave();
    if (kept !== undefined) await sandbox.keep(request.keep ?? 0, kept);
    return {
      ...ended,
      sandbox: sandbox.id,
      image: { id: image.manifest.id, name: image.manifest.name },
      ...timeline.course,
      measured: { ...ended.measured, limits, machine: sandbox.machine },
      ...collected,
      warnings,
      egress,
      remove: kept === undefined ? remove : async () => undefined,
    };
  } catch (error) {
    timeline.fail();
    await remove();
    throw error;
  }
}

/** How long one process may keep a job from its start, ms: no longer than the job itself may take. */
function startLimit({ timeout }: RunRequest): number | undefined {
  return timeout === undefined ? undefined : Math.max(timeout, sayAfter());
}

async function takeImage(engine: Engine, request: RunRequest): Promise<LeasedImage> {
  const image = await leaseImage(engine.paths, request.image);
  if (image !== undefined) return image;
  throw new KilnError('E_IMAGE_MISSING', `there is no image ${request.image}`, {
    hint: '`kiln image ls` lists them; `kiln image build RECIPE` makes one',
  });
}
