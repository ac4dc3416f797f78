import { openSync, statfsSync } from 'node:fs';
import { KilnError } from '../errors.ts';
import type { ProcessCgroups } from '../host/cgroup/cgroup-files.ts';
import { span, traceSandbox } from '../host/trace/trace.ts';
import { awaitedLater } from '../promise.ts';
import { CommandRequest, type SpawnOptions } from './command/command-request.ts';
import { SandboxControl } from './command/control.ts';
import { readSandboxFacts, type SandboxFacts } from './command/facts.ts';
import { execFailed, setupFailed } from './command/failures.ts';
import { SandboxProcess } from './command/process.ts';
import type { SandboxDomain } from './domain/sandbox-domain.ts';
import type { SandboxSession } from './domain/sandbox-record.ts';
import { labelOperation, relabelSources } from './labels/request.ts';
import { type LeasedAddress, type LeaseRequest, leaseAddress } from './network/dhcp-client.ts';
import type { BindOwners } from './policy/binds.ts';
import { type NetworkAnswers, planFilesystem, procOperations } from './policy/filesystem.ts';
import { refuseHostWrites } from './policy/host-write.ts';
import { requireLayer } from './policy/layers.ts';
import type { SandboxSpecification } from './policy/specification.ts';
import { type Surroundings, surroundingsOf } from './policy/surroundings.ts';
import { encodeRequest } from './wire/encode.ts';

/** A claimed sandbox with an image. {@link spawn} starts commands; disposing ends everything in it. */
export class Sandbox implements AsyncDisposable {
  /** What the init measured when the sandbox was ready. */
  readonly facts: SandboxFacts;
  /** What decides which walls its commands get. */
  readonly surroundings: Surroundings;
  readonly #sandbox: SandboxDomain;
  readonly #lease: LeasedAddress | undefined;
  #control: SandboxControl | undefined;
  #nextId = 1;

  private constructor(
    sandbox: SandboxDomain,
    facts: SandboxFacts,
    surroundings: Surroundings,
    lease?: LeasedAddress | undefined,
  ) {
    this.#sandbox = sandbox;
    this.surroundings = surroundings;
    this.facts = facts;
    this.#lease = lease;
  }

  /**
   * Puts an image and everything else of a specification into a sandbox. Throws E_SETUP with what the init
   * could not do, E_LAYER_MISSING when it measured a hole, E_NO_LEASE when the network gave no address,
   * E_STATE, and the signal's reason; the sandbox is destroyed then.
   */
  static async open(
    sandbox: SandboxDomain,
    specification: SandboxSpecification,
    owners: BindOwners,
    signal?: AbortSignal,
  ): Promise<Sandbox> {
    let lease: LeasedAddress | undefined;
    try {
      using _ = span('fill the sandbox');
      const { labels } = sandbox.record;
      const label = labelOperation(labels);
      // Check before any label on the host changes.
      if (labels !== undefined) refuseHostWrites(sandbox.paths, specification, owners.caller);
      await relabelSources(specification, labels);
      const rules = specification.nested ? [] : procOperations();
      const prepare = sandbox.prepared ? undefined : encodeRequest('prepare', [...label, ...rules]);
      const asks = leaseRequest(specification);
      if (asks !== undefined) lease = await leaseBefore(sandbox, prepare, { ...asks, signal });
      using plan = planFilesystem(
        specification,
        { range: sandbox.range, initPid: sandbox.channel.initPid },
        owners,
        sandbox.paths,
        lease ?? givenAddress(specification),
      );
      const { sources } = plan;
      // Listen before sending: an init that could not prepare sends the reason and hangs up.
      const filled = awaitedLater(
        sandbox.channel.ask((answer) => {
          if (answer.type === 'failed') {
            throw setupFailed(answer, { sources, binds: specification.binds, labels });
          }
          return answer.type === 'ready' ? answer.facts : undefined;
        }),
      );
      const send = (message: Buffer, fds: readonly number[] = []) => {
        try {
          sandbox.channel.send(message, fds);
        } catch (error) {
          if (!(error instanceof KilnError && error.code === 'E_SANDBOX_GONE')) throw error;
        }
      };
      if (prepare !== undefined && lease === undefined) send(prepare);
      send(encodeRequest('setup', [...label, ...plan.operations]), plan.fds);
      // Written while the init works.
      sandbox.writeRecord();
      const text = await filled;
      traceSandbox(sandbox.channel.initPid, text);
      const { network, allowMissing } = specification;
      const facts = readSandboxFacts(text, {
        network: network === 'host' ? 'host' : 'own',
        range: sandbox.range,
        operations: plan.operations,
        time: requireLayer('time-namespace', allowMissing),
        labels,
      });
      return new Sandbox(sandbox, facts, surroundingsOf(specification), lease);
    } catch (error) {
      lease?.close();
      await sandbox.destroy();
      throw error;
    }
  }

  get id(): string {
    return this.#sandbox.id;
  }

  /** The host's pid of the init, the root of the process tree. */
  get initPid(): number {
    return this.#sandbox.channel.initPid;
  }

  /** The sandbox's limits and accounts. */
  get cgroups(): ProcessCgroups {
    return this.#sandbox.cgroups;
  }

  /**
   * Starts a command, as child_process.spawn() does, and resolves once it has been exec'd.
   * Throws E_COMMAND_NOT_FOUND, E_COMMAND_NOT_EXECUTABLE, E_NO_USER, E_WORKDIR, E_EXEC,
   * E_LAYER_MISSING, E_SANDBOX_GONE.
   */
  async spawn(argv: readonly string[], options: SpawnOptions): Promise<SandboxProcess> {
    const request = new CommandRequest(this.#sandbox, this.#nextId++, argv, options);
    return await awaitStart(this.#sandbox, request);
  }

  /** Requests of a services' supervisor to the init. */
  control(): SandboxControl {
    // One object for all requests, because it numbers them.
    this.#control ??= new SandboxControl(this.#sandbox.channel);
    return this.#control;
  }

  /** Ends every process but the init, so that the sandbox's files do not change any more. */
  async killAll(): Promise<void> {
    this.#sandbox.channel.send(encodeRequest('kill-all', []));
    await this.#sandbox.channel.ask((answer) => (answer.type === 'quiet' ? true : undefined));
  }

  /** Whether one of the sandbox's private file systems, or one at `more`, is full. */
  diskIsFull(more: readonly string[] = []): boolean {
    const root = `/proc/${this.#sandbox.channel.initPid}/root`;
    return ['/', '/tmp', '/dev/shm', ...more].some((path) => {
      try {
        return statfsSync(root + path).bavail === 0;
      } catch {
        return false;
      }
    });
  }

  /** A descriptor of the sandbox's root directory; the caller closes it. The tree is hostile. */
  openRoot(): number {
    return openSync(`/proc/${this.#sandbox.channel.initPid}/root`, 'r');
  }

  /** Gives up the sandbox: it lives on for `seconds` or until it is destroyed. {@link reopen} returns to it. */
  async keep(
    seconds: number,
    session: Omit<SandboxSession, 'facts' | 'surroundings'>,
  ): Promise<void> {
    this.#lease?.close();
    this.#sandbox.describe({
      keepUntil: Date.now() + seconds * 1000,
      session: { ...session, surroundings: this.surroundings, facts: this.facts },
    });
    this.#sandbox.writeRecord();
    this.#sandbox.channel.send(encodeRequest('keep', [{ op: 'ttl', seconds }]));
    await this.#sandbox.abandon();
  }

  /** A kept sandbox, in the state in which {@link keep} left it. */
  static reopen(sandbox: SandboxDomain, session: SandboxSession): Sandbox {
    return new Sandbox(sandbox, session.facts, session.surroundings);
  }

  async close(): Promise<void> {
    this.#lease?.close();
    await this.#sandbox.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** The request for an address, if the sandbox needs one and has no fixed one. */
function leaseRequest({ network, hostname }: SandboxSpecification): LeaseRequest | undefined {
  if (typeof network === 'string' || network.dhcp === false) return undefined;
  if (network.address !== undefined || network.mac === undefined) return undefined;
  return { mac: network.mac, hostname };
}

/** The fixed address in a specification. */
function givenAddress({ network }: SandboxSpecification): NetworkAnswers {
  if (typeof network === 'string' || network.address === undefined) return {};
  return { address: network.address.split('/')[0] ?? '' };
}

/** Gets an address for the sandbox while the sandbox is still empty. */
async function leaseBefore(
  { channel, record: { labels } }: SandboxDomain,
  prepare: Buffer | undefined,
  request: LeaseRequest,
): Promise<LeasedAddress> {
  if (prepare !== undefined) {
    const prepared = awaitedLater(
      channel.ask((answer) => {
        if (answer.type === 'failed') throw setupFailed(answer, { sources: [], binds: [], labels });
        return answer.type === 'done' ? true : undefined;
      }),
    );
    channel.send(prepare);
    await prepared;
  }
  return await leaseAddress(new SandboxControl(channel), request);
}

/** Has the init start a command, and resolves once it has been exec'd. */
async function awaitStart(
  sandbox: SandboxDomain,
  request: CommandRequest,
): Promise<SandboxProcess> {
  using _ = request;
  const { id, argv } = request;
  const { channel } = sandbox;
  // Listen before it starts: its end may arrive together with its start.
  const ended = awaitedLater(
    channel.wait((answer) => {
      if (answer.type === 'failed' && answer.id === id) throw execFailed(answer, argv);
      return answer.type === 'exited' && answer.id === id ? answer : undefined;
    }),
  );
  const started = awaitedLater(
    channel.ask((answer) => {
      if (answer.type === 'failed' && answer.id === id) throw execFailed(answer, argv);
      return answer.type === 'started' && answer.id === id ? answer : undefined;
    }),
  );
  request.send();
  const { pid, facts } = await started;
  traceSandbox(channel.initPid, facts);
  const measured = request.readFacts(facts);
  return new SandboxProcess(channel, id, pid, argv, request.takeStreams(), measured, ended);
}
