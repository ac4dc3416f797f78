import { statfsSync } from 'node:fs';
import { isKilnCode, KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { attempt } from '../host/calls/libc.ts';
import type { ProcessCgroups } from '../host/cgroup/cgroup-files.ts';
import { O_PATH, openInTree } from '../host/files/at.ts';
import { span, traceSandbox } from '../host/trace/trace.ts';
import { awaitedLater } from '../promise.ts';
import { CommandRequest, type SpawnOptions } from './command/command-request.ts';
import { SandboxControl } from './command/control.ts';
import { readSandboxFacts, type SandboxFacts } from './command/facts.ts';
import { execError, setupError } from './command/failures.ts';
import { exitOf, SandboxProcess } from './command/process.ts';
import type { SandboxDomain } from './domain/sandbox-domain.ts';
import type { SandboxSession } from './domain/sandbox-record.ts';
import { labelOperation } from './labels/labels.ts';
import { relabelSources } from './labels/relabel.ts';
import { type LeasedAddress, type LeaseRequest, leaseAddress } from './network/dhcp-client.ts';
import {
  type BindOwners,
  type NetworkAnswers,
  planFilesystem,
  procOperations,
} from './policy/filesystem.ts';
import { refuseHostWrites } from './policy/host-write.ts';
import { requireLayer } from './policy/layers.ts';
import {
  type SandboxSpecification,
  type Surroundings,
  surroundingsOf,
} from './policy/specification.ts';
import { encodeRequest, encodeSignal } from './wire/encode.ts';

export class Sandbox implements AsyncDisposable {
  readonly facts: SandboxFacts;
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
      if (asks !== undefined) {
        if (prepare !== undefined) await sandbox.prepare(prepare);
        lease = await leaseAddress(new SandboxControl(sandbox.channel), { ...asks, signal });
      }
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
            throw setupError(answer, { sources, binds: specification.binds, labels });
          }
          return answer.type === 'ready' ? answer.facts : undefined;
        }),
      );
      const send = (message: Buffer, fds: readonly number[] = []) => {
        try {
          sandbox.channel.send(message, fds);
        } catch (error) {
          if (!isKilnCode(error, 'E_SANDBOX_GONE')) throw error;
        }
      };
      if (prepare !== undefined && lease === undefined) send(prepare);
      send(encodeRequest('setup', [...label, ...plan.operations]), plan.fds);
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

  /** The name of what has its limits: of its domain, and of its cgroups. */
  get domain(): string {
    return this.#sandbox.record.domain;
  }

  get id(): string {
    return this.#sandbox.id;
  }

  get initPid(): number {
    return this.#sandbox.channel.initPid;
  }

  get cgroups(): ProcessCgroups {
    return this.#sandbox.cgroups;
  }

  async spawn(argv: readonly string[], options: SpawnOptions): Promise<SandboxProcess> {
    const request = new CommandRequest(this.#sandbox, this.#nextId++, argv, options);
    return await awaitStart(this.#sandbox, request);
  }

  control(): SandboxControl {
    // One object for all requests, because it numbers them.
    this.#control ??= new SandboxControl(this.#sandbox.channel);
    return this.#control;
  }

  async killAll(): Promise<void> {
    this.#sandbox.channel.send(encodeRequest('kill-all', []));
    await this.#sandbox.channel.ask((answer) => (answer.type === 'quiet' ? true : undefined));
  }

  /** @param more mount points of the sandbox beside those that every one has */
  diskIsFull(more: readonly string[] = []): boolean {
    const isAnyFull = () => {
      using root = closing(this.openRoot());
      return ['/', '/tmp', '/dev/shm', ...more].some((path) => isFull(root.fd, path));
    };
    // The sandbox may have ended.
    return attempt(isAnyFull) ?? false;
  }

  /** See {@link Channel.openRoot}. */
  openRoot(): number {
    return this.#sandbox.channel.openRoot();
  }

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

/** Whether a file system of the sandbox is full; a link on the way leads to none of the host's. */
function isFull(root: number, path: string): boolean {
  using found = openInTree(root, path, O_PATH);
  return found !== undefined && statfsSync(`/proc/self/fd/${found.fd}`).bavail === 0;
}

function leaseRequest({ network, hostname }: SandboxSpecification): LeaseRequest | undefined {
  if (typeof network === 'string' || network.dhcp === false) return undefined;
  if (network.address !== undefined || network.mac === undefined) return undefined;
  return { mac: network.mac, hostname };
}

function givenAddress({ network }: SandboxSpecification): NetworkAnswers {
  if (typeof network === 'string' || network.address === undefined) return {};
  return { address: network.address.split('/')[0] ?? '' };
}

async function awaitStart(
  sandbox: SandboxDomain,
  request: CommandRequest,
): Promise<SandboxProcess> {
  using _ = request;
  const { id, argv } = request;
  const { name: profile } = request.options.policy.seccomp;
  const { channel } = sandbox;
  // Listen before it starts: its end may arrive together with its start.
  const ended = awaitedLater(
    channel
      .wait((answer) => {
        if (answer.type === 'failed' && answer.id === id) throw execError(answer, argv, profile);
        return answer.type === 'exited' && answer.id === id ? exitOf(answer) : undefined;
      })
      .catch((error: unknown) => {
        throw isKilnCode(error, 'E_SANDBOX_GONE') ? goneBeforeError(sandbox.id, error) : error;
      }),
  );
  const started = awaitedLater(
    channel.ask((answer) => {
      if (answer.type === 'failed' && answer.id === id) throw execError(answer, argv, profile);
      return answer.type === 'started' && answer.id === id ? answer : undefined;
    }),
  );
  request.send();
  const { pid, facts: text } = await started;
  traceSandbox(channel.initPid, text);
  const facts = request.readFacts(text);
  const control = {
    signal: (signal: number) => channel.send(encodeSignal(id, signal)),
    resize: (rows: number, columns: number) =>
      channel.send(
        encodeRequest('winsize', [
          { op: 'id', id },
          { op: 'terminal', rows, columns },
        ]),
      ),
  };
  return new SandboxProcess(control, { pid, facts }, request.takeStreams(), ended);
}

function goneBeforeError(id: string, cause: KilnError): KilnError {
  return new KilnError('E_SANDBOX_GONE', `sandbox ${id} ended before its command did`, {
    cause: cause.cause,
    hint: 'somebody killed it, as `kiln kill` does, or the kernel: `journalctl -k` shows that; try again',
  });
}
