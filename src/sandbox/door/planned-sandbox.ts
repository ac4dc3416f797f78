/** The one door: every command that enters a sandbox passes this module. */
import type { Owner } from '../../artifacts/destination.ts';
import { defined, some } from '../../defined.ts';
import type { Egress } from '../../egress/open.ts';
import type { EgressEntry } from '../../egress/rule.ts';
import { currentAction } from '../../events/action.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { mountVolume } from '../../host/files/mount.ts';
import type { SandboxHost } from '../../host/libvirt/sandbox-host.ts';
import { DiskWatch } from '../../host/state/disk-watch.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import { SandboxControl } from '../command/control.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { CommandStdio } from '../command/process.ts';
import { startCommand } from '../command/start-command.ts';
import type { Ground } from '../domain/ground.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import type { LayeredFolder, SandboxRecord } from '../domain/sandbox-record.ts';
import type { LeasedAddress } from '../network/dhcp-client.ts';
import { type FilledSandbox, openSandbox, reopenSandbox } from '../open.ts';
import type { PublishedPort } from '../policy/network.ts';
import { type Policies, policiesOf, userCapabilities } from '../policy/policy.ts';
import { Protection } from '../policy/protected.ts';
import { type Surroundings, surroundingsOf } from '../policy/specification.ts';
import { Layers, layeredFolders } from './layers.ts';
import {
  type CommandPlan,
  type ExecuteRequest,
  enteredBy,
  type KeptCommand,
  type Plan,
  type SandboxPlan,
} from './plan.ts';
import { SandboxPorts } from './ports.ts';
import { SandboxRoot } from './root.ts';
import {
  type CommandEnd,
  type CommandIo,
  type Executed,
  executed,
  type LimitHit,
  type Measured,
  type OpenIo,
  type RunningCommand,
  supervise,
} from './supervise.ts';
import { SandboxTree } from './tree.ts';

/** Mount points that every sandbox has. */
const USUAL_DISKS = ['/', '/tmp', '/dev/shm'] as const;

/** What a sandbox that is kept for later commands knows of its plan. */
interface KeptPlan {
  readonly owner: Owner;
  readonly environment: Readonly<Record<string, string>>;
  readonly egress: readonly string[] | undefined;
  readonly publish?: readonly PublishedPort[] | undefined;
  readonly folders?: readonly LayeredFolder[] | undefined;
  readonly protectedPaths?: readonly string[] | undefined;
}

export class PlannedSandbox implements AsyncDisposable {
  readonly id: string;
  /** The name of its domain, and of its cgroups. */
  readonly domain: string;
  readonly initPid: number;
  readonly facts: SandboxFacts;
  readonly control: SandboxControl;
  readonly tree: SandboxTree;
  readonly layers: Layers;
  readonly root: SandboxRoot;
  readonly ports: SandboxPorts;
  readonly #domain: SandboxDomain;
  readonly #leases: readonly LeasedAddress[];
  readonly #surroundings: Surroundings;
  readonly #policies: Policies;
  readonly #plan: KeptPlan;
  readonly #leaving: (() => void)[] = [];
  #egress: Egress | undefined;
  /** An event tells of each host that was asked for. */
  #hasTold = false;
  #samples: OpenIo['samples'];
  #protection: Protection | undefined;
  #disk: DiskWatch | undefined;
  measured: Measured | undefined;

  private constructor(
    { domain, facts, leases = [] }: FilledSandbox,
    surroundings: Surroundings,
    policies: Policies,
    plan: KeptPlan,
  ) {
    this.id = domain.id;
    this.domain = domain.record.domain;
    this.initPid = domain.channel.initPid;
    this.facts = facts;
    this.control = new SandboxControl(domain.channel);
    this.tree = new SandboxTree(domain, policies, plan.owner, facts);
    this.layers = new Layers(plan.folders ?? [], this.control, facts);
    this.root = new SandboxRoot(domain, this.layers, async () => {
      await this.killAll();
      this.#unwatchDisk();
    });
    this.ports = new SandboxPorts(domain, surroundings.hostNetwork);
    this.#domain = domain;
    this.#leases = leases;
    this.#surroundings = surroundings;
    this.#policies = policies;
    this.#plan = plan;
  }

  /**
   * Mistakes in the policy of the plan's command are found before anything starts. Throws what opening a sandbox
   * and making a policy throw, and E_EGRESS; nothing is left then.
   */
  static async open(
    host: SandboxHost,
    plan: SandboxPlan | Plan,
    { secrets = [], samples, ...io }: OpenIo = {},
  ): Promise<PlannedSandbox> {
    const surroundings = surroundingsOf(plan.sandbox);
    const policies = policiesOf(host.paths, surroundings);
    if ('command' in plan) await policies(plan.command.policy);
    const volumes = plan.sandbox.volumes.map(({ source, ...where }) => ({
      source: typeof source === 'string' ? source : mountVolume(source),
      ...where,
    }));
    const { owner: user, caller, shownAs: command } = plan;
    using stack = new DisposableStack();
    const protection = stack.use(new Protection(plan.sandbox, caller));
    const binds = [...plan.sandbox.binds, ...protection.binds];
    const specification = { ...plan.sandbox, binds, secrets, volumes };
    const filled = await openSandbox(host, specification, {
      ...{ user, caller, command },
      ...io,
    });
    const { protectedPaths } = plan.sandbox;
    const kept = { ...plan, protectedPaths, folders: layeredFolders(plan.sandbox.binds) };
    const opened = new PlannedSandbox(filled, surroundings, policies, kept);
    opened.#samples = samples;
    opened.#protection = protection;
    stack.move();
    try {
      await opened.#openEgress();
      await opened.ports.publish(plan.publish);
      currentAction()?.entered(enteredBy(opened.id, plan));
      return opened;
    } catch (error) {
      await opened.close();
      throw error;
    }
  }

  /** @param how whether what a rollback has left half-done is the caller's to mend */
  static async reopen(host: SandboxHost, id: string, how: { readonly rollsBack?: boolean } = {}) {
    const { domain, session, keepUntil } = await reopenSandbox(host, id, how.rollsBack);
    const { user, capabilities, seccomp, env, workdir, egress, facts, surroundings } = session;
    const { folders, protectedPaths, publish } = session;
    const [uid = 0, gid = 0] = user.split(':').map(Number);
    const policies = policiesOf(host.paths, surroundings);
    const plan = { owner: { uid, gid }, environment: {}, egress, publish, folders, protectedPaths };
    const kept: KeptCommand = { policy: { user, capabilities, seccomp }, env, workdir };
    const reopened = new PlannedSandbox({ domain, facts }, surroundings, policies, plan);
    try {
      await reopened.root.thaw();
      if (folders !== undefined && folders.length > 0) await domain.ground.forgetNames();
      await reopened.#openEgress();
      return { sandbox: reopened, kept, keepUntil };
    } catch (error) {
      await reopened.keep(keepUntil - Date.now(), kept);
      throw error;
    }
  }

  async #openEgress(): Promise<void> {
    const { egress } = this.#plan;
    if (egress === undefined) return;
    // Loaded here, because few sandboxes have a proxy.
    const { openEgress } = await import('../../egress/open.ts');
    this.#egress = await openEgress((port) => this.#domain.ground.listen(port), egress);
  }

  /** Resolves with the reason when a network has taken an address back. */
  get addressLost(): Promise<unknown> | undefined {
    return this.#leases.length === 0
      ? undefined
      : Promise.race(this.#leases.map(({ lost }) => lost));
  }

  /** Of its networks, in their order. */
  get addresses(): readonly string[] {
    return (this.#domain.record.addresses ?? []).map(({ address }) => address);
  }

  /** What a kept sandbox publishes while somebody is in it. */
  get plannedPorts(): readonly PublishedPort[] {
    return this.#plan.publish ?? [];
  }

  /** Of its files' owners, as this host numbers them. */
  get idRange(): IdRange {
    return this.#domain.range;
  }

  /** Where what kiln knows of it lies. */
  get folder(): string {
    return this.#domain.directory;
  }

  /** What it stands on: its limits, and what it uses. */
  get ground(): Ground {
    return this.#domain.ground;
  }

  /**
   * Starts a command; it resolves once it has been exec'd. Throws E_COMMAND_NOT_FOUND,
   * E_COMMAND_NOT_EXECUTABLE, E_NO_USER, E_WORKDIR, E_EXEC, E_LAYER_MISSING, E_SANDBOX_GONE, and what making a
   * policy throws.
   */
  async start(plan: CommandPlan, stdio: CommandStdio = {}): Promise<RunningCommand> {
    const { argv, workdir, limits, umask, boot, online = true } = plan;
    this.#watchDisk();
    const tells = online ? this.#egress?.environment : {};
    const process = await startCommand(this.#domain, argv, {
      policy: await this.#policies(plan.policy),
      env: { ...this.#plan.environment, ...tells, ...plan.env },
      ...{ workdir, limits, umask, boot, ...stdio },
    });
    const measured = { ...this.facts, ...process.facts };
    this.measured = measured;
    const kill =
      plan.leftovers === 'ended' ? () => this.killAll() : async () => void process.kill('SIGKILL');
    const ended = async () => {
      using _samples = this.#samples?.watch(() => this.ground.usage());
      const end = await supervise(process, plan.time, plan.leftovers, kill).catch(async (error) => {
        await this.#disk?.throwIfKilled();
        throw error;
      });
      const usage = this.ground.usage();
      const limitHit = await this.limitHit(end, usage, plan.disks);
      if (limitHit !== null) currentAction()?.hitLimit(limitHit);
      return { ...end, limitHit, usage, measured, refused: process.refused };
    };
    return { process, measured, kill, ended };
  }

  /** While kiln has commands in it. */
  #watchDisk(): void {
    const { scratch } = this.record;
    if (scratch === undefined || this.#disk !== undefined) return;
    const { path: tree, bytes } = scratch;
    const hint = 'give more --disk';
    this.#disk = new DiskWatch(tree, { tree, bytes, who: `sandbox ${this.id}`, hint });
    this.#disk.kills(this.initPid);
  }

  #unwatchDisk(): void {
    this.#disk?.[Symbol.dispose]();
    this.#disk = undefined;
  }

  /** Makes what a command's start waits for. @throws what making a policy throws */
  async prepare(plan: CommandPlan): Promise<void> {
    await this.#policies(plan.policy);
  }

  /** Calls `act` before the sandbox is kept or destroyed. */
  whenLeft(act: () => void): void {
    this.#leaving.push(act);
  }

  /** A command beside or after the one that the sandbox was made for. */
  furtherCommand(
    { argv, user, env, workdir }: ExecuteRequest,
    { policy, ...kept }: KeptCommand,
  ): CommandPlan {
    const rights = (spec: string) => ({
      user: spec,
      capabilities: userCapabilities(Number(spec.split(':')[0]), [], this.#surroundings),
      seccomp: policy.seccomp,
    });
    return {
      ...{ argv, time: {}, leftovers: 'left' },
      policy: user === undefined ? policy : rights(user),
      env: { ...kept.env, ...env },
      workdir: workdir ?? kept.workdir,
    };
  }

  /** Runs a command to its end. @throws what starting it throws, and the signal's reason */
  async execute(plan: CommandPlan, io: CommandIo = {}): Promise<Executed> {
    io.signal?.throwIfAborted();
    return await executed(await this.start(plan), io);
  }

  /**
   * The limit that hindered a command, by the kernel's counts; time limits are kiln's own.
   * @param disks mount points beside those that every sandbox has
   */
  async limitHit(
    { timeLimit, exitCode }: CommandEnd,
    { oomKills = 0, pidsRefused = 0 }: CgroupUsage,
    disks: readonly string[] = [],
  ): Promise<LimitHit | null> {
    if (timeLimit !== null) return timeLimit;
    if (oomKills > 0) return 'memory';
    if (pidsRefused > 0) return 'pids';
    // That a file system is full tells only of a command that failed what it failed of.
    if (exitCode === 0) return null;
    // The sandbox may have ended.
    const isFull = await this.tree.isAnyFull([...USUAL_DISKS, ...disks]).catch(() => false);
    return isFull ? 'disk' : null;
  }

  get protectedPaths(): readonly string[] {
    return this.#plan.protectedPaths ?? [];
  }

  /** What it stands on, and where what it writes lies, as its record has it. */
  get record(): SandboxRecord {
    return this.#domain.record;
  }

  /**
   * Ends every process in the sandbox, so that its files do not change any more. Throws E_SANDBOX_GONE when the
   * init is gone: its mounts go with it, and the tree that is read then is not the sandbox's.
   */
  async killAll(): Promise<void> {
    await this.control.killAll();
  }

  /** Signals all processes of a machine, by their sessions: this host cannot. @returns how many */
  async terminate(): Promise<number> {
    const processes = await this.tree.processes();
    let count = 0;
    for (const session of new Set(processes.map(({ session: one }) => one))) {
      count += await this.control.killSession(session, 'SIGTERM');
    }
    return count;
  }

  /** Protected paths that its commands have changed all the same: see {@link Protection}. */
  changedProtected(): readonly string[] {
    return this.#protection?.changed() ?? [];
  }

  async closeEgress(): Promise<readonly EgressEntry[] | undefined> {
    const egress = this.#egress;
    const entries = await egress?.close();
    if (entries !== undefined && !this.#hasTold) currentAction()?.reached(entries, this.id);
    this.#hasTold = entries !== undefined;
    return entries;
  }

  async keep(milliseconds: number, { policy, env, workdir }: KeptCommand): Promise<void> {
    await this.#leave();
    const { user, capabilities, seccomp } = policy;
    const { egress, environment, folders, protectedPaths } = this.#plan;
    const publish = some(this.plannedPorts);
    this.#domain.describe({
      keepUntil: Date.now() + milliseconds,
      session: {
        ...{ user, capabilities, seccomp, workdir, env: { ...environment, ...env } },
        ...{ surroundings: this.#surroundings, facts: this.facts },
        ...defined({ egress, publish, folders, protectedPaths }),
      },
    });
    this.#domain.writeRecord();
    this.control.keep(milliseconds);
    await this.#domain.abandon();
  }

  async close(): Promise<void> {
    try {
      await this.#leave();
    } finally {
      await this.#domain.destroy();
    }
  }

  async #leave(): Promise<void> {
    for (const act of this.#leaving.splice(0)) act();
    for (const lease of this.#leases) lease.close();
    await this.ports.close();
    this.#protection?.[Symbol.dispose]();
    this.#protection = undefined;
    this.#unwatchDisk();
    await this.closeEgress();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
