import { openSync, statfsSync } from 'node:fs';

import { KilnError } from '../errors.ts';
import type { ProcessCgroups } from '../kernel/cgroup-files.ts';
import { createPipe } from '../kernel/pipe.ts';
import { closeDescriptor, receiveDescriptor, unixSocketPair } from '../kernel/unix-socket.ts';
import { span, traceBox } from '../trace/trace.ts';
import type { Box } from './box.ts';
import type { BoxSession } from './box-record.ts';
import { capabilityMask } from './capabilities.ts';
import { readCommandFacts } from './command-facts.ts';
import { BoxControl } from './control.ts';
import { type BoxFacts, readBoxFacts } from './facts.ts';
import { execFailed, setupFailed } from './failures.ts';
import { type BindOwners, PROC_RULES, planFilesystem, procOperations } from './filesystem.ts';
import { labelOperation, relabelSources } from './labels/sources.ts';
import { landlockWalls } from './landlock.ts';
import { allowedMissing, requireLayer } from './layers.ts';
import { type HostStdio, type RelayedOutput, SandboxProcess } from './process.ts';
import { encodeExec, encodeKeep, encodeKillAll, type ResourceLimit } from './protocol/exec.ts';
import { encodePrepare, encodeSetup } from './protocol/setup.ts';
import type { CommandPolicy, SandboxSpecification } from './specification.ts';

/** How a command is started in a box. */
export interface SpawnOptions {
  readonly policy: CommandPolicy;
  /** The whole environment; HOME, USER and LOGNAME are added from the image when missing. */
  readonly env?: Readonly<Record<string, string>>;
  readonly workdir?: string;
  /** A terminal of the box instead of three pipes. */
  readonly terminal?: { readonly rows: number; readonly columns: number };
  /** Where output goes without being read on the way; the command's streams are empty then. */
  readonly relay?: RelayedOutput;
  /** Beside that of core dumps, which is the box’s. */
  readonly limits?: readonly ResourceLimit[];
  readonly umask?: number;
  /** It is pid 1 of a system of its own: see src/guest/boot.h. */
  readonly boot?: true;
}

/**
 * No core dumps (RLIMIT_CORE): with a `|` in core_pattern(5), a program of the host's reads them, as
 * the host's root. 1 and not 0, which such a program gets to see all the same.
 */
const NO_CORE: ResourceLimit = { resource: 4, soft: 1, hard: 1 };

function withoutCore(limits: readonly ResourceLimit[] = []): ResourceLimit[] {
  return [...limits.filter(({ resource }) => resource !== NO_CORE.resource), NO_CORE];
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/**
 * A claimed box with an image in it. Commands are started with {@link spawn}; disposing of it ends
 * everything in it.
 */
export class Sandbox implements AsyncDisposable {
  /** What the init measured when the box was ready. */
  readonly facts: BoxFacts;
  readonly #box: Box;
  #nextId = 1;

  private constructor(box: Box, facts: BoxFacts) {
    this.#box = box;
    this.facts = facts;
  }

  /**
   * Puts an image and everything else a specification names into a box. Throws E_SETUP with what
   * the init could not do, E_LAYER_MISSING when it measured a hole, E_STATE; the box is destroyed then.
   */
  static async open(
    box: Box,
    specification: SandboxSpecification,
    owners: BindOwners,
  ): Promise<Sandbox> {
    try {
      using _ = span('fill the box');
      const label = labelOperation(box.record.labels);
      if (!box.prepared) {
        const rules = specification.nested ? [] : procOperations();
        box.channel.send(encodePrepare([...label, ...rules], { waits: false }));
      }
      await relabelSources(specification, box.record.labels);
      using plan = planFilesystem(
        specification,
        { range: box.range, initPid: box.channel.initPid },
        owners,
      );
      box.channel.send(encodeSetup([...label, ...plan.operations]), plan.fds);
      // While the init works.
      box.writeRecord();
      const facts = await box.channel.wait((answer) => {
        if (answer.type === 'failed') {
          const { binds } = specification;
          const { labels } = box.record;
          throw setupFailed(answer, { sources: plan.sources, binds, labels });
        }
        return answer.type === 'ready' ? answer.facts : undefined;
      });
      traceBox(box.channel.initPid, facts);
      const { network, allowMissing } = specification;
      return new Sandbox(
        box,
        readBoxFacts(facts, {
          network: network === 'host' ? 'host' : 'own',
          range: box.range,
          operations: plan.operations,
          time: requireLayer('time-namespace', allowMissing),
          labels: box.record.labels,
        }),
      );
    } catch (error) {
      await box.destroy();
      throw error;
    }
  }

  get id(): string {
    return this.#box.id;
  }

  /** The host's pid of the box's init, the root of its process tree. */
  get initPid(): number {
    return this.#box.channel.initPid;
  }

  /** Of the box: limits and accounts. */
  get cgroups(): ProcessCgroups {
    return this.#box.cgroups;
  }

  /**
   * Starts a command, as child_process.spawn() does, and resolves once it has been exec'd.
   * Throws E_COMMAND_NOT_FOUND, E_COMMAND_NOT_EXECUTABLE, E_NO_USER, E_WORKDIR, E_EXEC,
   * E_LAYER_MISSING, E_BOX_GONE.
   */
  async spawn(argv: readonly string[], options: SpawnOptions): Promise<SandboxProcess> {
    const id = this.#nextId++;
    const { policy } = options;
    const boot = options.boot === true ? PROC_RULES : [];
    const capabilities = capabilityMask(policy.capabilities);
    const { plain, asking } = policy.seccomp ?? {};
    const landlock =
      policy.landlock ??
      landlockWalls({
        capabilities: policy.capabilities,
        ...(policy.seccomp === undefined ? {} : { seccomp: policy.seccomp.name }),
        allowMissing: allowedMissing(),
      });
    const limits = withoutCore(options.limits);
    const stdio = options.terminal === undefined ? this.#pipes() : this.#terminal();
    try {
      const message = encodeExec({
        id,
        argv,
        environment: environment(options),
        workdir: options.workdir ?? '/',
        user: policy.user,
        capabilities,
        ...(plain === undefined ? {} : { seccomp: asking ?? plain }),
        ...(asking === undefined || plain === undefined ? {} : { verdicts: plain }),
        landlock,
        limits,
        ...(options.terminal === undefined ? {} : { terminal: options.terminal }),
        umask: options.umask ?? 0o022,
        boot,
      });
      // Listening before it starts: its end may come together with the news of its start.
      const ended = this.#box.channel.wait((answer) => {
        if (answer.type === 'failed' && answer.id === id) throw execFailed(answer, argv);
        return answer.type === 'exited' && answer.id === id ? answer : undefined;
      });
      ended.catch(() => undefined);
      this.#box.channel.send(message, stdio.guest);
      const started = await this.#box.channel.wait((answer) => {
        if (answer.type === 'failed' && answer.id === id) throw execFailed(answer, argv);
        return answer.type === 'started' && answer.id === id ? answer : undefined;
      });
      traceBox(this.#box.channel.initPid, started.facts);
      const seccomp = plain !== undefined;
      const facts = readCommandFacts(started.facts, {
        user: policy.user,
        capabilities,
        seccomp,
        landlock,
        limits,
        labels: this.#box.record.labels,
        boot,
      });
      const host = stdio.host();
      return new SandboxProcess(
        this.#box.channel,
        id,
        started.pid,
        argv,
        host,
        facts,
        options.relay ?? {},
        ended,
      );
    } catch (error) {
      stdio.abandon();
      throw error;
    } finally {
      for (const fd of stdio.guest) closeDescriptor(fd);
    }
  }

  /** What a supervisor of services asks of the init. */
  control(): BoxControl {
    return new BoxControl(this.#box.channel);
  }

  /** Ends every process of the box but its init, so that its files hold still. */
  async killAll(): Promise<void> {
    this.#box.channel.send(encodeKillAll());
    await this.#box.channel.wait((answer) => (answer.type === 'quiet' ? true : undefined));
  }

  /** Whether one of the box's private file systems, or one at `more`, has no room left. */
  diskIsFull(more: readonly string[] = []): boolean {
    const root = `/proc/${this.#box.channel.initPid}/root`;
    return ['/', '/tmp', '/dev/shm', ...more].some((path) => {
      try {
        return statfsSync(root + path).bavail === 0;
      } catch {
        return false;
      }
    });
  }

  /** A descriptor of the box's root directory; the caller closes it. The tree is hostile. */
  openRoot(): number {
    return openSync(`/proc/${this.#box.channel.initPid}/root`, 'r');
  }

  /**
   * Lets go of the box, which lives on for `seconds` or until somebody destroys it;
   * {@link reopen} comes back to it.
   */
  async keep(seconds: number, session: Omit<BoxSession, 'facts'>): Promise<void> {
    this.#box.describe({
      keepUntil: Date.now() + seconds * 1000,
      session: { ...session, facts: this.facts },
    });
    this.#box.writeRecord();
    this.#box.channel.send(encodeKeep(seconds));
    await this.#box.abandon();
  }

  /** A kept box, as {@link keep} left it. */
  static reopen(box: Box, session: BoxSession): Sandbox {
    return new Sandbox(box, session.facts);
  }

  async close(): Promise<void> {
    await this.#box.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #pipes(): Stdio {
    const owner = this.#box.range.base;
    const [stdin, stdout, stderr] = [createPipe(owner), createPipe(owner), createPipe(owner)];
    const host = { stdin: stdin.write, stdout: stdout.read, stderr: stderr.read };
    return {
      guest: [stdin.read, stdout.write, stderr.write],
      host: () => host,
      abandon: () => Object.values(host).forEach(closeDescriptor),
    };
  }

  #terminal(): Stdio {
    const [ours, theirs] = unixSocketPair();
    return {
      guest: [theirs],
      host: () => {
        const terminal = receiveDescriptor(ours);
        closeDescriptor(ours);
        if (terminal === undefined) {
          throw new KilnError('E_TERMINAL', 'the guest init sent no terminal');
        }
        return { terminal };
      },
      abandon: () => closeDescriptor(ours),
    };
  }
}

interface Stdio {
  readonly guest: readonly number[];
  /** The host's ends, once the command runs. */
  host(): HostStdio;
  abandon(): void;
}

function environment(options: SpawnOptions): string[] {
  const variables = { PATH: DEFAULT_PATH, container: 'kiln', ...options.env };
  return Object.entries(variables).map(([name, value]) => `${name}=${value}`);
}
