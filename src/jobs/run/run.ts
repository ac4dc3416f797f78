import type { Collection } from '../../artifacts/collect.ts';
import type { Warning } from '../../artifacts/warning.ts';
import { defined } from '../../defined.ts';
import type { EgressEntry } from '../../egress/rule.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import { sayAfter, withWaits } from '../../host/process/wait-for.ts';
import { type LeasedImage, leaseImage } from '../../image/store/images.ts';
import type { CommandStdio } from '../../sandbox/command/command-request.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';
import type { Ended, Measured } from '../../sandbox/door/io.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { CommandEnd } from '../../sandbox/door/supervise.ts';
import { collectorFor, type Results } from './collect.ts';
import { planRun, readSecrets } from './plan.ts';
import type { RunRequest } from './request.ts';
import { type Course, Timeline } from './timeline.ts';

export interface RunHooks extends CommandStdio {
  /** The command has just started: attach to its stdio, forward signals. `kill` ends everything in the sandbox. */
  readonly started: (command: SandboxProcess, kill: () => void) => void;
  /** The command has ended: signals go to the caller again. The answer aborts the collection of artifacts. */
  readonly ended?: () => AbortSignal;
  readonly entered?: (sandbox: string) => void;
  /** Aborts what comes before the start; afterwards signals go to the command. */
  readonly signal?: AbortSignal;
  readonly results?: Results;
  readonly warning: (warning: Warning) => void;
}

export interface RunReport
  extends Pick<Ended, 'limitHit' | 'usage'>,
    Partial<Pick<Ended, 'refused'>>,
    Course {
  readonly sandbox: string;
  readonly image: { readonly id: string; readonly name: string };
  readonly end: CommandEnd;
  readonly measured: Measured & { readonly limits?: CgroupLimits };
  readonly egress?: readonly EgressEntry[];
  readonly collection: Collection | undefined;
  readonly failure: KilnError | undefined;
  readonly warnings: readonly Warning[];
}

export interface FinishedRun extends RunReport {
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
  const warnings: Warning[] = [];
  const warn = (warning: Warning) => {
    warnings.push(warning);
    hooks.warning(warning);
  };

  signal?.throwIfAborted();
  // Binds do not count in the sandbox's own share, so the share limits the collection.
  const collect = await collectorFor(request, hooks.results, engine.owner?.share.disk);
  await using image = await timeline.measure('image', () => takeImage(engine, request));
  const plan = planRun(engine, request, image);
  const { command } = plan;
  const secrets = await readSecrets(request.secrets);
  const sandbox = await timeline.measure('sandbox', () =>
    withWaits({ endAfter: startLimit(request), signal }, () =>
      PlannedSandbox.open(engine, plan, { secrets, signal, samples: timeline.samples }),
    ),
  );
  const remove = () => timeline.measure('destroy', () => sandbox.close());
  let finished = false;
  try {
    hooks.entered?.(sandbox.id);
    signal?.throwIfAborted();
    if (request.copyIn.length > 0) {
      await timeline.measure('copy-in', () => sandbox.copyIn(request.copyIn, warn, signal));
    }
    const started = await timeline.measure('start', () =>
      sandbox.start(command, { terminal, handOver }),
    );
    sandbox.receive(command, started.process);
    hooks.started(started.process, () => void sandbox.killAll().catch(() => undefined));
    const limits = sandbox.limits();
    const ended = await timeline.measure('command', () => started.ended());
    const interrupted = hooks.ended?.();
    const { exitCode, signal: endedBy, timeLimit, limitHit, usage, measured, refused } = ended;
    const egress = await sandbox.closeEgress();
    const { collection, failure } = await timeline.measure('artifacts', () =>
      collect(sandbox, command.workdir, warn, interrupted),
    );
    const { keepSeconds } = request;
    if (keepSeconds !== undefined) await sandbox.keep(keepSeconds, command);
    finished = true;
    return {
      sandbox: sandbox.id,
      image: { id: image.manifest.id, name: image.manifest.name },
      ...timeline.course,
      end: { exitCode, signal: endedBy, timeLimit },
      measured: { ...measured, limits },
      ...{ limitHit, usage, refused, collection, failure, warnings },
      remove: keepSeconds === undefined ? remove : async () => undefined,
      ...defined({ egress }),
    };
  } finally {
    if (!finished) await remove();
  }
}

/** How long one process may keep a run from its start, ms: no longer than the run itself may take. */
function startLimit({ time: { timeout } }: RunRequest): number | undefined {
  return timeout === undefined ? undefined : Math.max(timeout, sayAfter());
}

async function takeImage(engine: Engine, request: RunRequest): Promise<LeasedImage> {
  const image = await leaseImage(engine.paths, request.image);
  if (image !== undefined) return image;
  throw new KilnError('E_IMAGE_MISSING', `there is no image ${request.image}`, {
    hint: '`kiln image ls` lists them; `kiln image build RECIPE` makes one',
  });
}
