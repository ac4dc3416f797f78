import { closeSync } from 'node:fs';
import type { Collection } from '../artifacts/collect.ts';
import type { ArtifactWarning } from '../artifacts/warning.ts';
import type { EgressEntry } from '../egress/log.ts';
import type { Egress } from '../egress/open.ts';
import { checkEgress } from '../egress/rule.ts';
import { KilnError } from '../errors.ts';
import { type LeasedImage, leaseImage } from '../image/store/images.ts';
import type { CgroupLimits } from '../kernel/cgroup-files.ts';
import type { CgroupUsage } from '../kernel/cgroup-usage.ts';
import { sayAfter, withWaits } from '../kernel/wait-for.ts';
import { awaitedLater } from '../promise.ts';
import type { CommandFacts } from '../sandbox/command-facts.ts';
import type { BoxFacts } from '../sandbox/facts.ts';
import { type Engine, openSandbox } from '../sandbox/open.ts';
import { commandPolicy, userCapabilities } from '../sandbox/policy.ts';
import type { SandboxProcess } from '../sandbox/process.ts';
import type { RefusedCall } from '../sandbox/protocol/answer.ts';
import type { FirstCommand, Sandbox } from '../sandbox/sandbox.ts';
import { chosenProfile } from '../sandbox/seccomp/profile.ts';
import { type SandboxSpecification, sandboxSpecification } from '../sandbox/specification.ts';
import type { HandOver, RelayedOutput } from '../sandbox/streams.ts';
import { surroundingsOf } from '../sandbox/surroundings.ts';
import type { RunRequest } from './request.ts';
import { beginRun, endLater } from './results-first.ts';
import { readSecrets } from './secrets.ts';
import { type CommandEnd, supervise } from './supervise.ts';
import { type Phase, Timeline } from './timeline.ts';
import { type CommandUser, commandUser } from './user.ts';

/** What a caller does while the command runs. */
export interface RunHooks {
  /**
   * The command has just started: attach to its stdio, forward signals to it. `kill` ends
   * everything in the box at once.
   */
  readonly started: (command: SandboxProcess, kill: () => void) => void;
  /** The command has ended: signals go to the caller again. What is returned aborts the collection of artifacts. */
  readonly ended?: () => AbortSignal;
  /** The box is there; its command may be starting. */
  readonly entered?: (box: string) => void;
  /** Aborts what comes before the start; afterwards signals go to the command. */
  readonly signal?: AbortSignal;
  /** Something the caller should know that stops nothing. */
  readonly warning: (warning: ArtifactWarning) => void;
  readonly terminal?: { readonly rows: number; readonly columns: number };
  /** Descriptors that output goes to without being read on the way: for pipes and files. */
  readonly relay?: RelayedOutput;
  /** Gives the command's stdio to another process, instead of to streams. */
  readonly handOver?: HandOver;
}

/** What `--timeout` leaves for the artifacts at least, ms. */
const SHORTEST_COLLECTION = 60_000;

/** Which limit ended the command or got in its way. */
type LimitHit = 'timeout' | 'stall' | 'memory' | 'pids' | 'disk';

/** What came of a run. */
export interface RunReport {
  readonly box: string;
  readonly image: { readonly id: string; readonly name: string };
  readonly started: Date;
  readonly phases: readonly Phase[];
  readonly end: CommandEnd;
  readonly limitHit: LimitHit | null;
  readonly usage: CgroupUsage;
  /** Measured inside the box. */
  readonly measured: BoxFacts & CommandFacts & { readonly limits?: CgroupLimits };
  /** System calls that the filter refused. */
  readonly refused?: readonly RefusedCall[];
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
   * Resolves once nothing of the box is left (a kept one: at once). The result is known before:
   * whoever wants it need not wait for the kernel to take the box apart. Until then, what the command has
   * left running may go on in a box that nothing leads out of.
   */
  readonly removed: Promise<void>;
}

/**
 * Runs one command in a box of its own and leaves nothing behind: takes the image, opens the
 * sandbox, starts the command, waits for it within its limits, collects the artifacts; the box is on its
 * way out then, see {@link FinishedRun.removed}. Throws the errors of each of these steps, and the
 * signal's reason; the box is gone then as well, and `timeline` tells what was done when. What goes wrong
 * with the artifacts is the report's `failure`: the command has ended by then.
 */
export async function run(
  engine: Engine,
  request: RunRequest,
  hooks: RunHooks,
  timeline: Timeline = new Timeline(),
): Promise<FinishedRun> {
  const warnings: ArtifactWarning[] = [];
  const warn = (warning: ArtifactWarning) => {
    warnings.push(warning);
    hooks.warning(warning);
  };

  hooks.signal?.throwIfAborted();
  checkEgress(request);
  const wanted = request.resultDirectory !== undefined && request.artifacts.length > 0;
  const collector = wanted ? await import('../artifacts/collect.ts') : undefined;
  collector?.checkPatterns(request.artifacts);
  using result = beginRun();
  await using image = await timeline.measure('image', () => takeImage(engine, request));
  const user = commandUser(image.manifest, request.user);
  const workdir = request.workdir ?? image.manifest.workdir;
  const specification = await describeSandbox(request, image);
  const surroundings = surroundingsOf(specification);
  const seccomp = chosenProfile(request.seccomp, specification.nested);
  const policy = await commandPolicy(engine.paths, surroundings, {
    user: user.spec,
    capabilities: userCapabilities(user.uid, request.capAdd, surroundings),
    seccomp,
  });
  const command = (environment: Readonly<Record<string, string>> = {}): FirstCommand => ({
    argv: request.argv,
    signal: hooks.signal,
    options: {
      policy,
      env: { ...image.manifest.environment, ...environment, ...request.env },
      workdir,
      ...(hooks.terminal === undefined ? {} : { terminal: hooks.terminal }),
      ...(hooks.relay === undefined ? {} : { relay: hooks.relay }),
      ...(hooks.handOver === undefined ? {} : { handOver: hooks.handOver }),
    },
  });
  // The proxy, which is in the box, decides on the environment; files are there before the command.
  const atOnce = request.egress === undefined && request.copyIn.length === 0;
  const first = atOnce ? command() : undefined;
  const sandbox = await timeline.measure('sandbox', () =>
    withWaits({ endAfter: startLimit(request), signal: hooks.signal }, () =>
      openSandbox(engine, specification, {
        user,
        caller: request.caller,
        command: request.argv,
        first,
        signal: hooks.signal,
        outlives: request.keepSeconds !== undefined,
      }),
    ),
  );
  let removed: Promise<void> | undefined;
  try {
    hooks.entered?.(sandbox.id);
    hooks.signal?.throwIfAborted();
    const cgroups = sandbox.cgroups;
    if (request.copyIn.length > 0) {
      await timeline.measure('copy-in', () => fill(request, user, sandbox, warn, hooks.signal));
    }
    await using egress = await wayOut(request, sandbox);
    // The first command is starting meanwhile.
    const limits = cgroups.limits(sandbox.id);
    const started = await timeline.measure('start', () => {
      const { argv, options } = command(egress?.environment);
      return sandbox.takeFirst() ?? sandbox.spawn(argv, options);
    });
    result.started();
    const kill = () => void sandbox.killAll().catch(() => undefined);
    hooks.started(started, kill);
    const end = await timeline.measure('command', () =>
      supervise(started, request.time, () => sandbox.killAll(), isClosed(request)),
    );
    const interrupted = hooks.ended?.();
    const asked = await egress?.close();
    const usage = cgroups.usage(sandbox.id);
    const limitHit = whichLimit(end, usage, sandbox);
    const { collection, failure } = await timeline.measure('artifacts', () =>
      collect(collector, request, workdir, sandbox, warn, interrupted),
    );
    if (request.keepSeconds !== undefined) {
      await sandbox.keep(request.keepSeconds, {
        user: policy.user,
        capabilities: policy.capabilities,
        seccomp,
        env: { ...image.manifest.environment, ...request.env },
        workdir,
      });
      removed = Promise.resolve();
    }
    const report = {
      box: sandbox.id,
      image: { id: image.manifest.id, name: image.manifest.name },
      started: timeline.started,
      phases: timeline.phases,
      end,
      limitHit,
      usage,
      measured: { ...sandbox.facts, ...started.facts, limits },
      refused: started.refused,
      ...(asked === undefined ? {} : { egress: asked }),
      collection,
      failure,
      warnings,
    };
    result[Symbol.dispose]();
    removed ??= awaitedLater(endLater(() => timeline.measure('destroy', () => sandbox.close())));
    return { ...report, removed };
  } finally {
    if (removed === undefined) await timeline.measure('destroy', () => sandbox.close());
  }
}

/** How long one process may keep a run from its start: no longer than the run itself may take, ms. */
function startLimit({ time: { timeout } }: RunRequest): number | undefined {
  return timeout === undefined ? undefined : Math.max(timeout, sayAfter());
}

/** Whether nobody but its command meets what that leaves running in the box, until the box ends. */
function isClosed({ artifacts, keepSeconds, egress, binds, network }: RunRequest): boolean {
  const collected = artifacts.length > 0 || keepSeconds !== undefined || egress !== undefined;
  return !collected && network === 'private' && binds.every(({ readonly }) => readonly);
}

async function takeImage(engine: Engine, request: RunRequest): Promise<LeasedImage> {
  const image = await leaseImage(engine.paths, request.image);
  if (image !== undefined) return image;
  throw new KilnError('E_IMAGE_MISSING', `there is no image ${request.image}`, {
    hint: '`kiln image ls` lists them; `kiln image build RECIPE` makes one',
  });
}

/** Throws what reading secrets throws. */
async function describeSandbox(
  request: RunRequest,
  image: LeasedImage,
): Promise<SandboxSpecification> {
  return sandboxSpecification({
    root: image.tree,
    image: image.manifest.id,
    network: request.network,
    binds: request.binds,
    tmpfs: request.tmpfs,
    limits: request.limits,
    secrets: await readSecrets(request.secrets),
    ...(request.allowMissing === undefined ? {} : { allowMissing: request.allowMissing }),
    nested: request.nested === true,
    ...(request.label === undefined ? {} : { label: request.label }),
    ...(request.hostname === undefined ? {} : { hostname: request.hostname }),
    ...(request.disk === undefined ? {} : { disk: request.disk }),
    allowHostWrite: request.allowHostWrite === true,
  });
}

/** The proxy, where there is a list of hosts. Loaded late: few runs have one. */
async function wayOut({ egress }: RunRequest, sandbox: Sandbox): Promise<Egress | undefined> {
  if (egress === undefined) return undefined;
  const { openEgress } = await import('../egress/open.ts');
  return await openEgress(sandbox, egress);
}

/** Puts files of the host into the box; they are the command's user's. */
async function fill(
  request: RunRequest,
  user: CommandUser,
  sandbox: Sandbox,
  warn: (warning: ArtifactWarning) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { copyIn } = await import('../artifacts/copy-in.ts');
  const [, base] = sandbox.facts.uidMap;
  const rootFd = sandbox.openRoot();
  try {
    await copyIn({
      rootFd,
      items: request.copyIn,
      owner: { uid: base + user.uid, gid: base + user.gid },
      onWarning: warn,
      ...(signal === undefined ? {} : { signal }),
    });
  } finally {
    closeSync(rootFd);
  }
}

/** Which limit was hit, from what the kernel counted; the time limits are ours. */
function whichLimit(end: CommandEnd, usage: CgroupUsage, sandbox: Sandbox): LimitHit | null {
  if (end.timeLimit !== null) return end.timeLimit;
  if ((usage.oomKills ?? 0) > 0) return 'memory';
  const failed = end.exitCode !== 0;
  if (failed && (usage.pidsRefused ?? 0) > 0) return 'pids';
  if (failed && sandbox.diskIsFull()) return 'disk';
  return null;
}

async function collect(
  collector: typeof import('../artifacts/collect.ts') | undefined,
  request: RunRequest,
  workdir: string,
  sandbox: Sandbox,
  warn: (warning: ArtifactWarning) => void,
  interrupted: AbortSignal | undefined,
): Promise<Pick<RunReport, 'collection' | 'failure'>> {
  const none = { collection: undefined, failure: undefined };
  if (request.resultDirectory === undefined || collector === undefined) return none;
  const rootFd = sandbox.openRoot();
  try {
    const collection = await collector.collectArtifacts({
      rootFd,
      patterns: request.artifacts,
      workdir,
      destination: request.resultDirectory,
      owner: request.caller,
      onWarning: warn,
      signal: collectionEnd(request.time.timeout, interrupted),
    });
    // With a box's init its mounts go: what was read of its tree since then is not what was there.
    await sandbox.killAll();
    return { collection, failure: collector.missingArtifacts(collection) };
  } catch (error) {
    if (error instanceof KilnError) return { ...none, failure: error };
    throw error;
  } finally {
    closeSync(rootFd);
  }
}

/** When the time of a collection is over: the command's own once more, and a minute at least. */
function collectionEnd(
  timeout: number | undefined,
  interrupted: AbortSignal | undefined,
): AbortSignal {
  const signals = interrupted === undefined ? [] : [interrupted];
  if (timeout === undefined) return AbortSignal.any(signals);
  const time = Math.max(timeout, SHORTEST_COLLECTION);
  const over = new AbortController();
  const error = new KilnError(
    'E_ARTIFACT_TIMEOUT',
    `the artifacts could not be collected within ${time / 1000} s`,
    { hint: 'give a longer --timeout: as long again, and a minute at least, is for the artifacts' },
  );
  setTimeout(() => over.abort(error), time).unref();
  return AbortSignal.any([...signals, over.signal]);
}
