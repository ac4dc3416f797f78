import type { Collection } from '../../artifacts/collect.ts';
import type { ArtifactWarning } from '../../artifacts/warning.ts';
import { defined } from '../../defined.ts';
import type { EgressEntry } from '../../egress/rule.ts';
import { KilnError } from '../../errors.ts';
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import { sayAfter, withWaits } from '../../host/process/wait-for.ts';
import { type LeasedImage, leaseImage } from '../../image/store/images.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';
import type { CommandStdio, Ended, Measured } from '../../sandbox/door/io.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { CommandEnd } from '../../sandbox/door/supervise.ts';
import type { Engine } from '../../sandbox/open.ts';
import { collectorFor } from './collect.ts';
import { planRun } from './plan.ts';
import type { RunRequest } from './request.ts';
import type { Results } from './results.ts';
import { readSecrets } from './secrets.ts';
import { type Course, Timeline } from './timeline.ts';

/** What a caller does while the command runs, and where its stdio goes. */
export interface RunHooks extends CommandStdio {
  /**
   * The command has just started: attach to its stdio, forward signals to it. `kill` ends
   * everything in the sandbox at once.
   */
  readonly started: (command: SandboxProcess, kill: () => void) => void;
  /** The command has ended: signals go to the caller again. What is returned aborts the collection of artifacts. */
  readonly ended?: () => AbortSignal;
  /** The sandbox is there. */
  readonly entered?: (sandbox: string) => void;
  /** Aborts what comes before the start; afterwards signals go to the command. */
  readonly signal?: AbortSignal;
  /** Who collects the artifacts; this process unless given. */
  readonly results?: Results;
  /** Something the caller should know that stops nothing. */
  readonly warning: (warning: ArtifactWarning) => void;
}

/** What came of a run. */
export interface RunReport
  extends Pick<Ended, 'limitHit' | 'usage'>,
    Partial<Pick<Ended, 'refused'>>,
    Course {
  readonly sandbox: string;
  readonly image: { readonly id: string; readonly name: string };
  readonly end: CommandEnd;
  /** Measured inside the sandbox. */
  readonly measured: Measured & { readonly limits?: CgroupLimits };
  /** What it asked the proxy for, where there was one. */
  readonly egress?: readonly EgressEntry[];
  readonly collection: Collection | undefined;
  /** What it was for did not come out, or not all of it. */
  readonly failure: KilnError | undefined;
  readonly warnings: readonly ArtifactWarning[];
}

/** A run whose result is known. */
export interface FinishedRun extends RunReport {
  /**
   * Resolves once nothing of the sandbox is left (a kept one: at once). The result is known before:
   * nobody who wants it has to wait for the kernel to take the sandbox apart.
   */
  readonly removed: Promise<void>;
}

/**
 * Runs one command in a sandbox of its own and leaves nothing behind: takes the image, opens the
 * sandbox, starts the command, waits for it within its limits, collects the artifacts; the sandbox is on
 * its way out then, see {@link FinishedRun.removed}. Throws the errors of each of these steps, and the
 * signal's reason; the sandbox is gone then as well, and `timeline` tells what was done when. What goes
 * wrong with the artifacts is the report's `failure`: the command has ended by then.
 */
export async function run(
  engine: Engine,
  request: RunRequest,
  hooks: RunHooks,
  timeline: Timeline = new Timeline(),
): Promise<FinishedRun> {
  const { signal, terminal, relay, handOver } = hooks;
  const warnings: ArtifactWarning[] = [];
  const warn = (warning: ArtifactWarning) => {
    warnings.push(warning);
    hooks.warning(warning);
  };

  signal?.throwIfAborted();
  // What is bound is not in the sandbox's own share: it counts here.
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
  let removed: Promise<void> | undefined;
  try {
    hooks.entered?.(sandbox.id);
    signal?.throwIfAborted();
    if (request.copyIn.length > 0) {
      await timeline.measure('copy-in', () => sandbox.copyIn(request.copyIn, warn, signal));
    }
    const started = await timeline.measure('start', () =>
      sandbox.start(command, { terminal, relay, handOver }),
    );
    hooks.started(started.process, () => void sandbox.killAll().catch(() => undefined));
    const limits = sandbox.limits();
    const ended = await timeline.measure('command', () => started.ended());
    const interrupted = hooks.ended?.();
    const { exitCode, signal: endedBy, timeLimit, limitHit, usage, measured, refused } = ended;
    const egress = await sandbox.closeEgress();
    const { collection, failure } = await timeline.measure('artifacts', () =>
      collect(sandbox, command.workdir, warn, interrupted),
    );
    if (request.keepSeconds !== undefined) {
      await sandbox.keep(request.keepSeconds, command);
      removed = Promise.resolve();
    }
    removed ??= awaitedLater(timeline.measure('destroy', () => sandbox.close()));
    return {
      sandbox: sandbox.id,
      image: { id: image.manifest.id, name: image.manifest.name },
      ...timeline.course,
      end: { exitCode, signal: endedBy, timeLimit },
      measured: { ...measured, limits },
      ...{ limitHit, usage, refused, collection, failure, warnings, removed },
      ...defined({ egress }),
    };
  } finally {
    if (removed === undefined) await timeline.measure('destroy', () => sandbox.close());
  }
}

/** How long one process may keep a run from its start: no longer than the run itself may take, ms. */
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
