/** The one door: every command that enters a sandbox passes this module. */

import { closeSync } from 'node:fs';
import type { CopyInItem } from '../../artifacts/copy-in.ts';
import type { ArtifactWarning } from '../../artifacts/warning.ts';
import { defined } from '../../defined.ts';
import type { Egress } from '../../egress/open.ts';
import type { EgressEntry } from '../../egress/rule.ts';
import { KilnError } from '../../errors.ts';
import type { CgroupLimits, ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { mountLoopImage } from '../../host/files/mount.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxControl } from '../command/control.ts';
import type { SandboxFacts } from '../command/facts.ts';
import { type Engine, openSandbox, reopenSandbox } from '../open.ts';
import { surroundingsOf } from '../policy/surroundings.ts';
import type { Sandbox } from '../sandbox.ts';
import {
  type CommandIo,
  type CommandStdio,
  type Executed,
  KEPT,
  type LimitHit,
  type Measured,
  type OpenIo,
  type RunningCommand,
  type UsageWatcher,
} from './io.ts';
import { listenToOutput, Output } from './output.ts';
import type { CommandPlan, Ids, Plan, SandboxPlan } from './plan.ts';
import { Policies } from './policies.ts';
import { type CommandEnd, supervise } from './supervise.ts';

/** How commands run in a kept sandbox. */
export type KeptCommand = Pick<CommandPlan, 'policy' | 'env' | 'workdir'>;

/** An open sandbox. Disposing of it ends everything in it. */
export class PlannedSandbox implements AsyncDisposable {
  readonly #sandbox: Sandbox;
  readonly #policies: Policies;
  readonly #owner: Ids;
  readonly #environment: Readonly<Record<string, string>>;
  #egress: Egress | undefined;
  #samples: UsageWatcher | undefined;
  /** Measured when its last command was started. */
  measured: Measured | undefined;

  private constructor(
    sandbox: Sandbox,
    policies: Policies,
    { owner, environment }: Pick<SandboxPlan, 'owner' | 'environment'>,
  ) {
    this.#sandbox = sandbox;
    this.#policies = policies;
    this.#owner = owner;
    this.#environment = environment;
  }

  /**
   * Opens a sandbox as planned, with a proxy if the plan lists hosts. Mistakes in the policy of the plan's
   * command are found before anything starts. Throws what opening a sandbox and making a policy throw,
   * E_EGRESS; nothing is left then.
   */
  static async open(
    engine: Engine,
    plan: SandboxPlan | Plan,
    { secrets = [], samples, ...io }: OpenIo = {},
  ): Promise<PlannedSandbox> {
    const policies = new Policies(engine.paths, surroundingsOf(plan.sandbox));
    if ('command' in plan) await policies.of(plan.command.policy);
    const volumes = plan.sandbox.volumes.map(({ source, target }) => ({
      source: typeof source === 'string' ? source : mountImage(source.image),
      target,
    }));
    const specification = { ...plan.sandbox, secrets, volumes };
    const { owner: user, caller, shownAs: command, outlives } = plan;
    const sandbox = await openSandbox(engine, specification, {
      ...{ user, caller, command, outlives },
      ...io,
    });
    const opened = new PlannedSandbox(sandbox, policies, plan);
    opened.#samples = samples;
    try {
      if (plan.egress !== undefined) {
        // Loaded here, because few sandboxes have a proxy.
        const { openEgress } = await import('../../egress/open.ts');
        opened.#egress = await openEgress(sandbox, plan.egress);
      }
      return opened;
    } catch (error) {
      await sandbox.close();
      throw error;
    }
  }

  /**
   * Reopens a kept sandbox, with the way in which its commands run. It is destroyed on close unless it is kept
   * again. Throws E_NO_SANDBOX, E_SANDBOX_BUSY, E_SANDBOX_GONE, E_INIT_SILENT.
   */
  static async reopen(
    engine: Engine,
    id: string,
  ): Promise<{ sandbox: PlannedSandbox; kept: KeptCommand; keepUntil: number }> {
    const { sandbox, session, keepUntil } = await reopenSandbox(engine, id);
    const { user, capabilities, seccomp, env, workdir } = session;
    const [uid = 0, gid = 0] = user.split(':').map(Number);
    const policies = new Policies(engine.paths, session.surroundings);
    const plan = { owner: { uid, gid }, environment: {} };
    const kept = { policy: { user, capabilities, seccomp }, env, workdir };
    return { sandbox: new PlannedSandbox(sandbox, policies, plan), kept, keepUntil };
  }

  get id(): string {
    return this.#sandbox.id;
  }

  /** What the init measured when the sandbox was ready. */
  get facts(): SandboxFacts {
    return this.#sandbox.facts;
  }

  /** The host's pid of the init, the root of the process tree. */
  get initPid(): number {
    return this.#sandbox.initPid;
  }

  /** Limits and accounts. */
  get cgroups(): ProcessCgroups {
    return this.#sandbox.cgroups;
  }

  /** The limits in force, from the kernel. */
  limits(): CgroupLimits {
    return this.cgroups.limits(this.id);
  }

  /** Of all processes that the sandbox has had. */
  usage(): CgroupUsage {
    return this.cgroups.usage(this.id);
  }

  /** Requests of a services' supervisor to the init. */
  control(): SandboxControl {
    return this.#sandbox.control();
  }

  /**
   * Starts a command; it resolves once it has been exec'd. Throws E_COMMAND_NOT_FOUND,
   * E_COMMAND_NOT_EXECUTABLE, E_NO_USER, E_WORKDIR, E_EXEC, E_LAYER_MISSING, E_SANDBOX_GONE, and what making a
   * policy throws.
   */
  async start(plan: CommandPlan, stdio: CommandStdio = {}): Promise<RunningCommand> {
    const { argv, workdir, limits, umask, boot, online = true } = plan;
    const tells = online ? this.#egress?.environment : {};
    const options = { workdir, limits, umask, boot, ...stdio };
    const process = await this.#sandbox.spawn(argv, {
      policy: await this.#policies.of(plan.policy),
      env: { ...this.#environment, ...tells, ...plan.env },
      ...options,
    });
    const measured = { ...this.facts, ...process.facts };
    this.measured = measured;
    const kill =
      plan.leftovers === 'ended' ? () => this.killAll() : async () => void process.kill('SIGKILL');
    const ended = async () => {
      using _samples = this.#samples?.watch(() => this.usage());
      const end = await supervise(process, plan.time, plan.leftovers, kill);
      const usage = this.usage();
      const limitHit = this.limitHit(end, usage, plan.disks);
      return { ...end, limitHit, usage, measured, refused: process.refused };
    };
    return { process, measured, kill, ended };
  }

  /**
   * Runs a command to its end, whatever that is. Throws what {@link start} throws, what `onOutput` throws, and
   * the signal's reason.
   */
  async execute(plan: CommandPlan, io: CommandIo = {}): Promise<Executed> {
    const { signal, onOutput, capture = 0 } = io;
    signal?.throwIfAborted();
    const command = await this.start(plan);
    const output = new Output(io.keep ?? KEPT);
    const stdout: Buffer[] = [];
    let captured = 0;
    const take = (chunk: Buffer, stream: 'stdout' | 'stderr') => {
      output.push(chunk);
      if (stream === 'stdout' && captured < capture) {
        stdout.push(chunk.subarray(0, capture - captured));
        captured += chunk.length;
      }
      onOutput?.(chunk, stream);
    };
    const listener = listenToOutput(command.process, take, command.kill);
    const abort = () => void command.kill().catch(() => undefined);
    signal?.addEventListener('abort', abort, { once: true });
    // The signal may have been aborted while the command started.
    if (signal?.aborted === true) abort();
    const ended = awaitedLater(command.ended());
    command.process.stdin.end(io.input);
    try {
      io.meanwhile?.();
      const end = await ended;
      signal?.throwIfAborted();
      listener.rethrow();
      return { ...end, output, stdout: Buffer.concat(stdout) };
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /**
   * The limit that hindered a command, by the kernel's counts; time limits are kiln's own.
   * @param disks see {@link CommandPlan}
   */
  limitHit(end: CommandEnd, usage: CgroupUsage, disks?: readonly string[]): LimitHit | null {
    if (end.timeLimit !== null) return end.timeLimit;
    if ((usage.oomKills ?? 0) > 0) return 'memory';
    if (end.exitCode === 0) return null;
    if ((usage.pidsRefused ?? 0) > 0) return 'pids';
    return this.#sandbox.diskIsFull(disks) ? 'disk' : null;
  }

  /**
   * Copies files of the host into the sandbox; they belong to the plan's owner. Throws what copyIn() throws.
   */
  async copyIn(
    items: readonly CopyInItem[],
    warn: (warning: ArtifactWarning) => void,
    signal?: AbortSignal | undefined,
  ): Promise<void> {
    const { copyIn } = await import('../../artifacts/copy-in.ts');
    const [, base] = this.facts.uidMap;
    const owner = { uid: base + this.#owner.uid, gid: base + this.#owner.gid };
    await this.withRoot(async (rootFd) => {
      const request = { rootFd, items, owner, onWarning: warn };
      await copyIn({ ...request, ...defined({ signal }) });
    });
  }

  /** Calls `act` with a descriptor of the root directory. Its content is hostile. */
  async withRoot<Result>(act: (rootFd: number) => Promise<Result>): Promise<Result> {
    const rootFd = this.openRoot();
    try {
      return await act(rootFd);
    } finally {
      closeSync(rootFd);
    }
  }

  /** A descriptor of the root directory. The caller closes it. */
  openRoot(): number {
    return this.#sandbox.openRoot();
  }

  /**
   * Ends every process in the sandbox, so that its files do not change any more. Throws E_SANDBOX_GONE when the
   * init is gone: its mounts go with it, and the tree that is read then is not the sandbox's.
   */
  async killAll(): Promise<void> {
    await this.#sandbox.killAll();
  }

  /** Ends the proxy, if there is one, and returns what was asked of it. */
  async closeEgress(): Promise<readonly EgressEntry[] | undefined> {
    return await this.#egress?.close();
  }

  /** Gives up the sandbox: it lives on for `seconds`, and {@link reopen} returns to it. */
  async keep(seconds: number, { policy, env, workdir }: KeptCommand): Promise<void> {
    await this.closeEgress();
    const { user, capabilities, seccomp } = policy;
    const session = { user, capabilities, seccomp, workdir };
    await this.#sandbox.keep(seconds, { ...session, env: { ...this.#environment, ...env } });
  }

  /** Ends everything in the sandbox and waits until nothing is left. Safe to call again. */
  async close(): Promise<void> {
    try {
      await this.closeEgress();
    } finally {
      await this.#sandbox.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/**
 * A detached mount of an ext4 image, invisible on the host; the sandbox takes it over. Throws E_IMAGE_MOUNT.
 */
function mountImage(path: string): number {
  try {
    return mountLoopImage(path, 'ext4');
  } catch (cause) {
    throw new KilnError('E_IMAGE_MOUNT', `cannot mount ${path}`, {
      cause,
      hint: 'the host needs loop devices: is there a /dev/loop-control?',
    });
  }
}
