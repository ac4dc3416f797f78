/** The one door: every command that enters a sandbox passes this module. */
import type { CopyInItem, Send, Unmade, WrittenFile } from '../../artifacts/copy-in.ts';
import type { Owner } from '../../artifacts/destination.ts';
import type { Warning } from '../../artifacts/warning.ts';
import { defined } from '../../defined.ts';
import type { Egress } from '../../egress/open.ts';
import type { EgressEntry } from '../../egress/rule.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import type { SandboxHost } from '../../host/libvirt/sandbox-host.ts';
import type { UserIds } from '../../host/process/user-namespace.ts';
import { SandboxControl } from '../command/control.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { SandboxProcess } from '../command/process.ts';
import { startCommand } from '../command/start-command.ts';
import type { CommandStdio, HandOver } from '../command/streams.ts';
import type { MachineFacts, PackFiles } from '../domain/ground.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import { sandboxFiles } from '../domain/sandbox-record.ts';
import type { FilledSandbox } from '../fill.ts';
import type { LeasedAddress } from '../network/dhcp-client.ts';
import { openSandbox, reopenSandbox } from '../open.ts';
import { userCapabilities } from '../policy/policy.ts';
import { type Surroundings, surroundingsOf } from '../policy/specification.ts';
import { executed } from './executed.ts';
import type { CommandIo, Executed, LimitHit, Measured, OpenIo, RunningCommand } from './io.ts';
import { isAnyFull, limitHit } from './limit-hit.ts';
import { makeFiles } from './make-files.ts';
import { mountImage } from './mount-image.ts';
import { behindLinkError } from './open-file.ts';
import type { CommandPlan, KeptCommand, Plan, SandboxPlan } from './plan.ts';
import { type Policies, policiesOf } from './policies.ts';
import { type CommandEnd, supervise } from './supervise.ts';
import { type ExecuteRequest, Visitors } from './visitors.ts';

/** What a sandbox that is kept for later commands knows of its plan. */
interface KeptPlan {
  readonly owner: Owner;
  readonly environment: Readonly<Record<string, string>>;
  readonly egress: readonly string[] | undefined;
}

export class PlannedSandbox implements AsyncDisposable {
  readonly id: string;
  /** The name of its domain, and of its cgroups. */
  readonly domain: string;
  readonly initPid: number;
  readonly facts: SandboxFacts;
  readonly control: SandboxControl;
  readonly #domain: SandboxDomain;
  readonly #lease: LeasedAddress | undefined;
  readonly #surroundings: Surroundings;
  readonly #policies: Policies;
  readonly #plan: KeptPlan;
  #visitors: Visitors | undefined;
  #egress: Egress | undefined;
  #samples: OpenIo['samples'];
  measured: Measured | undefined;

  private constructor(
    { domain, facts, lease }: FilledSandbox,
    surroundings: Surroundings,
    policies: Policies,
    plan: KeptPlan,
  ) {
    this.id = domain.id;
    this.domain = domain.record.domain;
    this.initPid = domain.channel.initPid;
    this.facts = facts;
    this.control = new SandboxControl(domain.channel);
    this.#domain = domain;
    this.#lease = lease;
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
    const volumes = plan.sandbox.volumes.map(({ source, target }) => ({
      source: typeof source === 'string' ? source : mountImage(source.image),
      target,
    }));
    const specification = { ...plan.sandbox, secrets, volumes };
    const { owner: user, caller, shownAs: command } = plan;
    const filled = await openSandbox(host, specification, {
      ...{ user, caller, command },
      ...io,
    });
    const opened = new PlannedSandbox(filled, surroundings, policies, plan);
    opened.#samples = samples;
    try {
      await opened.#openEgress();
      return opened;
    } catch (error) {
      await opened.close();
      throw error;
    }
  }

  static async reopen(host: SandboxHost, id: string) {
    const { domain, session, keepUntil } = await reopenSandbox(host, id);
    const { user, capabilities, seccomp, env, workdir, egress, facts, surroundings } = session;
    const [uid = 0, gid = 0] = user.split(':').map(Number);
    const policies = policiesOf(host.paths, surroundings);
    const plan = { owner: { uid, gid }, environment: {}, egress };
    const kept: KeptCommand = { policy: { user, capabilities, seccomp }, env, workdir };
    const reopened = new PlannedSandbox({ domain, facts }, surroundings, policies, plan);
    try {
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
    this.#egress = await openEgress(await this.control.socket('ipv4'), egress);
  }

  /** Undefined where the sandbox is a container. */
  get machine(): MachineFacts | undefined {
    return this.#domain.ground.machine;
  }

  limits(): CgroupLimits {
    return this.#domain.ground.limits();
  }

  usage(): CgroupUsage {
    return this.#domain.ground.usage();
  }

  /** A limit that is left out stays as it is. @throws KilnError E_LIMIT */
  async limit(limits: CgroupLimits): Promise<void> {
    await this.#domain.ground.limit(limits);
  }

  /**
   * Starts a command; it resolves once it has been exec'd. Throws E_COMMAND_NOT_FOUND,
   * E_COMMAND_NOT_EXECUTABLE, E_NO_USER, E_WORKDIR, E_EXEC, E_LAYER_MISSING, E_SANDBOX_GONE, and what making a
   * policy throws.
   */
  async start(plan: CommandPlan, stdio: CommandStdio = {}): Promise<RunningCommand> {
    const { argv, workdir, limits, umask, boot, online = true } = plan;
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
      using _samples = this.#samples?.watch(() => this.usage());
      const end = await supervise(process, plan.time, plan.leftovers, kill);
      const usage = this.usage();
      const limitHit = this.limitHit(end, usage, plan.disks);
      return { ...end, limitHit, usage, measured, refused: process.refused };
    };
    return { process, measured, kill, ended };
  }

  /**
   * Takes further commands for `kiln exec` from now on: as `kept`, with arguments, and what else they ask for. With
   * `until`, to its end only: what is then in the sandbox is collected, and must not change.
   */
  receive(kept: KeptCommand, until?: SandboxProcess): Visitors {
    const path = sandboxFiles.visit(this.#domain.directory);
    const visitors = new Visitors(path, (request, handOver) =>
      this.#visit(request, kept, visitors, handOver),
    );
    this.#visitors = visitors;
    until?.once('exit', () => visitors.close());
    return visitors;
  }

  async #visit(
    request: ExecuteRequest,
    kept: KeptCommand,
    visitors: Visitors,
    handOver: HandOver,
  ): Promise<SandboxProcess> {
    const plan = this.furtherCommand(request, kept);
    // First, so that nothing is awaited between the check below and the start.
    await this.#policies(plan.policy);
    if (!visitors.isOpen) {
      throw new KilnError('E_SANDBOX_GONE', `the command of sandbox ${this.id} has ended`, {
        hint: '`kiln run --keep` keeps a sandbox for later',
      });
    }
    return (await this.start(plan, { terminal: request.terminal, handOver })).process;
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

  /** The limit that hindered a command. @param disks mount points beside those that every sandbox has */
  limitHit(end: CommandEnd, usage: CgroupUsage, disks: readonly string[] = []): LimitHit | null {
    return limitHit(end, usage, () => {
      using root = closing(this.openRoot());
      return isAnyFull(root.fd, disks);
    });
  }

  async copyIn(
    items: readonly CopyInItem[],
    warn: (warning: Warning) => void,
    signal?: AbortSignal | undefined,
  ): Promise<void> {
    const { cannotWriteError, sendFiles } = await import('../../artifacts/copy-in.ts');
    for (const item of items) {
      const options = { onWarning: warn, ...defined({ signal }) };
      const unmade = await this.#makeFiles((send) => sendFiles(item, send, options), signal);
      if (unmade !== undefined) throw cannotWriteError(item, unmade);
    }
  }

  /** @throws KilnError E_ARGUMENT for what is no plain file there, SyscallError */
  async putFile(file: WrittenFile): Promise<void> {
    const { writtenFile } = await import('../../artifacts/copy-in.ts');
    const unmade = await this.#makeFiles((send) => send(writtenFile(file)));
    if (unmade === undefined) return;
    if ('cause' in unmade && hasErrno(unmade.cause, 'EACCES', 'EPERM'))
      throw behindLinkError(file.path, 'write', unmade.cause);
    if ('cause' in unmade && !hasErrno(unmade.cause, 'EBADF')) throw unmade.cause;
    const why = 'cause' in unmade ? 'it is not a plain file' : 'the sandbox is out of memory';
    throw new KilnError('E_ARGUMENT', `path: ${file.path}: ${why}`, {
      hint: 'name a file in the sandbox; its memory limit counts what is written',
    });
  }

  /** As the owner of copied files, whatever the modes of the folders. */
  async #makeFiles(
    write: (send: Send) => Promise<void>,
    signal?: AbortSignal | undefined,
  ): Promise<Unmade | undefined> {
    const { uid, gid } = this.#plan.owner;
    const capabilities = ['DAC_OVERRIDE', 'FOWNER'] as const;
    const policy = { user: `${uid}:${gid}`, capabilities, seccomp: 'default' };
    const options = { policy: await this.#policies(policy), workdir: '/', unpacks: true } as const;
    signal?.throwIfAborted();
    return await makeFiles(await startCommand(this.#domain, ['kiln-init'], options), write, signal);
  }

  /** The command's user, as this host numbers it. */
  get hostUser(): UserIds {
    const { uidMap, gidMap } = this.facts;
    const { uid, gid } = this.#plan.owner;
    return { uid: uidMap[1] + uid, gid: gidMap[1] + gid, groups: [] };
  }

  /** Calls `act` with a descriptor of the root directory. Its content is hostile. */
  async withRoot<Result>(act: (rootFd: number) => Promise<Result>): Promise<Result> {
    using root = closing(this.openRoot());
    return await act(root.fd);
  }

  /** See {@link Ground.pack}. */
  get pack(): PackFiles | undefined {
    return this.#domain.ground.pack;
  }

  /** See {@link Ground.openRoot}. */
  openRoot(): number {
    return this.#domain.ground.openRoot();
  }

  /**
   * Ends every process in the sandbox, so that its files do not change any more. Throws E_SANDBOX_GONE when the
   * init is gone: its mounts go with it, and the tree that is read then is not the sandbox's.
   */
  async killAll(): Promise<void> {
    await this.control.killAll();
  }

  async closeEgress(): Promise<readonly EgressEntry[] | undefined> {
    return await this.#egress?.close();
  }

  async keep(milliseconds: number, { policy, env, workdir }: KeptCommand): Promise<void> {
    await this.#leave();
    const { user, capabilities, seccomp } = policy;
    const { egress, environment } = this.#plan;
    this.#domain.describe({
      keepUntil: Date.now() + milliseconds,
      session: {
        ...{ user, capabilities, seccomp, workdir, env: { ...environment, ...env } },
        ...{ surroundings: this.#surroundings, facts: this.facts, ...defined({ egress }) },
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
    this.#visitors?.close();
    this.#lease?.close();
    await this.closeEgress();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
