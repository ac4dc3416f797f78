import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, createPipe, type Pipe } from '../../host/calls/descriptor.ts';
import { receiveDescriptor, unixSocketPair } from '../../host/sockets/unix-socket.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import { capabilityMask } from '../policy/capabilities.ts';
import { PROC_RULES } from '../policy/filesystem.ts';
import type { CommandPolicy } from '../policy/specification.ts';
import { encodeExec, type ResourceLimit } from '../wire/exec.ts';
import { type CommandFacts, type CommandPlan, readCommandFacts } from './command-facts.ts';
import {
  abandonStreams,
  type CommandStreams,
  type HandOver,
  type HostStdio,
  handedStreams,
  openStreams,
  type RelayedOutput,
} from './streams.ts';

/** How a command is started in a sandbox. */
export interface SpawnOptions {
  readonly policy: CommandPolicy;
  /** The whole environment; HOME, USER and LOGNAME are added from the image when missing. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly workdir?: string | undefined;
  /** A terminal of the sandbox instead of three pipes. */
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
  /** Where output is moved without being read here; the command's streams are empty then. */
  readonly relay?: RelayedOutput | undefined;
  /** Passes the started command's stdio to another process; the command's streams are empty then. */
  readonly handOver?: HandOver | undefined;
  /** Limits beside that of core dumps, which is the same in every sandbox. */
  readonly limits?: readonly ResourceLimit[] | undefined;
  readonly umask?: number | undefined;
  /** The command is pid 1 of a system of its own: see src/guest/boot.h. */
  readonly boot?: true | undefined;
}

/**
 * No core dumps (RLIMIT_CORE). With a `|` in core_pattern(5), a program of the host's reads them as the host's
 * root. The limit is 1, because such a program is started even if the limit is 0.
 */
const NO_CORE: ResourceLimit = { resource: 4, soft: 1, hard: 1 };

function withoutCore(limits: readonly ResourceLimit[] = []): ResourceLimit[] {
  return [...limits.filter(({ resource }) => resource !== NO_CORE.resource), NO_CORE];
}

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** A command for a sandbox, as the init takes it, with its stdio: made before the command starts. */
export class CommandRequest implements Disposable {
  readonly id: number;
  readonly argv: readonly string[];
  readonly options: SpawnOptions;
  readonly #sandbox: SandboxDomain;
  readonly #message: Buffer;
  readonly #wanted: Omit<CommandPlan, 'labels'>;
  readonly #stdio: Stdio;
  #streams: CommandStreams | undefined;
  /** True once the streams are closed or belong to the caller. */
  #ended = false;

  /** @param id of this sandbox's commands, its own */
  constructor(sandbox: SandboxDomain, id: number, argv: readonly string[], options: SpawnOptions) {
    this.id = id;
    this.argv = argv;
    this.options = options;
    this.#sandbox = sandbox;
    const { policy, terminal, umask = 0o022 } = options;
    const { user, landlock, openSockets } = policy;
    const boot = options.boot === true ? PROC_RULES : [];
    const capabilities = capabilityMask(policy.capabilities);
    const { plain, asking } = policy.seccomp;
    const limits = withoutCore(options.limits);
    this.#wanted = { user, capabilities, landlock, openSockets, limits, boot };
    this.#message = encodeExec({
      id,
      argv,
      environment: environment(options),
      workdir: options.workdir ?? '/',
      user,
      capabilities,
      seccomp: asking ?? plain,
      ...(asking === undefined ? {} : { verdicts: plain }),
      landlock,
      openSockets,
      limits,
      ...defined({ terminal }),
      umask,
      boot,
    });
    this.#stdio = terminal === undefined ? pipes(sandbox.range.base) : terminalSocket();
  }

  /** Asks the sandbox's init to start it. Throws E_SANDBOX_GONE. */
  send(): void {
    try {
      this.#sandbox.channel.send(this.#message, this.#stdio.guest);
    } finally {
      this.#closeGuestEnds();
    }
    // The streams are made while the init works. A terminal's master comes with the start.
    const { host } = this.#stdio;
    if (host !== undefined && this.options.handOver === undefined) this.#open(host);
  }

  /** Compares what the init measured with what was asked for. Throws E_LAYER_MISSING. */
  readFacts(text: string): CommandFacts {
    return readCommandFacts(text, { ...this.#wanted, labels: this.#sandbox.record.labels });
  }

  /** The host's ends of stdio of the running command; the caller owns them. Throws E_PROTOCOL. */
  takeStreams(): CommandStreams {
    const { handOver } = this.options;
    const streams =
      handOver === undefined
        ? (this.#streams ?? this.#open(this.#stdio.receive()))
        : handedStreams(handOver(this.#stdio.receive()));
    this.#ended = true;
    return streams;
  }

  /** Closes the sandbox's ends, and the host's ends if nobody took them. */
  [Symbol.dispose](): void {
    this.#closeGuestEnds();
    if (this.#ended) return;
    this.#ended = true;
    if (this.#streams !== undefined) abandonStreams(this.#streams);
    else this.#stdio.abandon();
  }

  #open(stdio: HostStdio): CommandStreams {
    try {
      this.#streams = openStreams(stdio, this.options.relay ?? {});
      return this.#streams;
    } catch (error) {
      if ('terminal' in stdio) closeDescriptor(stdio.terminal);
      throw error;
    }
  }

  #closeGuestEnds(): void {
    for (const fd of this.#stdio.guest.splice(0)) closeDescriptor(fd);
  }
}

interface Stdio {
  readonly guest: number[];
  /** The host's ends, if they exist before the command runs. */
  readonly host: HostStdio | undefined;
  /** The host's ends of the running command. Throws E_PROTOCOL. */
  receive(): HostStdio;
  abandon(): void;
}

/** @param owner root of the sandbox; the init gives the pipes to the command's user */
function pipes(owner: number): Stdio {
  const made: Pipe[] = [];
  const pipe = () => {
    try {
      const one = createPipe(owner);
      made.push(one);
      return one;
    } catch (error) {
      for (const fd of made.flatMap(({ read, write }) => [read, write])) closeDescriptor(fd);
      throw error;
    }
  };
  const [stdin, stdout, stderr] = [pipe(), pipe(), pipe()];
  const host = { stdin: stdin.write, stdout: stdout.read, stderr: stderr.read };
  return {
    guest: [stdin.read, stdout.write, stderr.write],
    host,
    receive: () => host,
    abandon: () => Object.values(host).forEach(closeDescriptor),
  };
}

/** The terminal's master comes through a socket. */
function terminalSocket(): Stdio {
  const [ours, theirs] = unixSocketPair();
  let open = true;
  const close = () => {
    if (open) closeDescriptor(ours);
    open = false;
  };
  return {
    guest: [theirs],
    host: undefined,
    receive: () => {
      const terminal = receiveDescriptor(ours);
      close();
      if (terminal !== undefined) return { terminal };
      throw new KilnError('E_PROTOCOL', 'the guest init sent no terminal');
    },
    abandon: close,
  };
}

function environment(options: SpawnOptions): string[] {
  const variables = { PATH: DEFAULT_PATH, container: 'kiln', ...options.env };
  return Object.entries(variables).map(([name, value]) => `${name}=${value}`);
}
