import { Socket } from 'node:net';
import { Readable, Writable } from 'node:stream';
import { ReadStream } from 'node:tty';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, createPipe, type Pipe } from '../../host/calls/descriptor.ts';
import { tryCall } from '../../host/calls/system-call.ts';
import { receiveDescriptor, unixSocketPair } from '../../host/sockets/unix-socket.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import type { SandboxLabels } from '../labels/module.ts';
import { PROC_RULES } from '../policy/filesystem.ts';
import { type CommandPolicy, capabilityMask } from '../policy/specification.ts';
import { encodeExec, type ResourceLimit } from '../wire/encode.ts';
import type { Channel } from './channel.ts';
import { type CommandFacts, type CommandPlan, readCommandFacts } from './facts.ts';

export interface CommandStdio {
  readonly terminal?: { readonly rows: number; readonly columns: number } | undefined;
  readonly handOver?: HandOver | undefined;
}

export interface SpawnOptions extends CommandStdio {
  readonly policy: CommandPolicy;
  /** The whole environment; HOME, USER and LOGNAME are added from the image when missing. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly workdir?: string | undefined;
  readonly limits?: readonly ResourceLimit[] | undefined;
  readonly umask?: number | undefined;
  readonly boot?: true | undefined;
  /** It executes nothing: it makes files of its input, in the format of src/artifacts/copy-in.ts. */
  readonly unpacks?: true | undefined;
}

/**
 * No core dumps (RLIMIT_CORE). With a `|` in core_pattern(5), a program of the host's reads them as the host's
 * root. The limit is 1, because such a program is started even if the limit is 0.
 */
const NO_CORE: ResourceLimit = { resource: 4, soft: 1, hard: 1 };

/**
 * Each user of each sandbox may have as much; the kernel counts all of it to the host's root as well, who has some
 * ten thousand pending signals (RLIMIT_SIGPENDING; a timer is one) and 819,200 bytes of POSIX message queues
 * (RLIMIT_MSGQUEUE). Source: user_namespaces(7), the kernel's ucount.c.
 */
const SHARES: readonly ResourceLimit[] = [
  { resource: 11, soft: 1024, hard: 1024 },
  { resource: 12, soft: 102_400, hard: 102_400 },
];

function resourceLimits(asked: readonly ResourceLimit[] = []): ResourceLimit[] {
  const shares = SHARES.map(({ resource, soft, hard }) => {
    const lower = asked.find((limit) => limit.resource === resource);
    if (lower === undefined) return { resource, soft, hard };
    return { resource, soft: Math.min(soft, lower.soft), hard: Math.min(hard, lower.hard) };
  });
  const ours = [...shares, NO_CORE];
  const others = asked.filter(({ resource }) => !ours.some((one) => one.resource === resource));
  return [...others, ...ours];
}

/** systemd's own search path, too (systemd.exec(5), ExecSearchPath=). */
export const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The sandbox of a command. */
export interface CommandPlace {
  readonly channel: Channel;
  readonly range: IdRange;
  readonly record: { readonly labels?: SandboxLabels };
}

export class CommandRequest implements Disposable {
  readonly id: number;
  readonly argv: readonly string[];
  readonly options: SpawnOptions;
  readonly #sandbox: CommandPlace;
  readonly #message: Buffer;
  readonly #wanted: Omit<CommandPlan, 'labels'>;
  readonly #stdio: Stdio;
  #streams: CommandStreams | undefined;
  #ended = false;

  constructor(sandbox: CommandPlace, id: number, argv: readonly string[], options: SpawnOptions) {
    this.id = id;
    this.argv = argv;
    this.options = options;
    this.#sandbox = sandbox;
    const { policy, terminal, umask = 0o022 } = options;
    const { user, landlock, openSockets } = policy;
    const boot = options.boot === true ? PROC_RULES : [];
    const capabilities = capabilityMask(policy.capabilities);
    const { plain, asking } = policy.seccomp;
    const limits = resourceLimits(options.limits);
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
      unpacks: options.unpacks,
    });
    this.#stdio = terminal === undefined ? pipes(sandbox.range.base) : terminalSocket();
  }

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

  readFacts(text: string): CommandFacts {
    return readCommandFacts(text, { ...this.#wanted, labels: this.#sandbox.record.labels });
  }

  takeStreams(): CommandStreams {
    const { handOver } = this.options;
    const streams =
      handOver === undefined
        ? (this.#streams ?? this.#open(this.#stdio.receive()))
        : handedStreams(handOver(this.#stdio.receive()));
    this.#ended = true;
    return streams;
  }

  [Symbol.dispose](): void {
    this.#closeGuestEnds();
    if (this.#ended) return;
    this.#ended = true;
    if (this.#streams !== undefined) abandonStreams(this.#streams);
    else this.#stdio.abandon();
  }

  #open(stdio: HostStdio): CommandStreams {
    try {
      this.#streams = openStreams(stdio);
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
  readonly host: HostStdio | undefined;
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

export type HostStdio =
  | { readonly stdin: number; readonly stdout: number; readonly stderr: number }
  | { readonly terminal: number };

/** Passes the host's ends of stdio to another process, which moves the bytes and owns the descriptors then. */
export type HandOver = (stdio: HostStdio) => HandedStdio;

export interface HandedStdio {
  readonly onMoved: (listener: () => void) => void;
  /** What is in the pipes now is the last that is moved: whoever still holds them is not waited for. */
  readonly end: () => void;
  readonly drained: Promise<void>;
}

export interface CommandStreams {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  readonly read: readonly Readable[];
  /** As {@link HandedStdio} has it. */
  readonly end: () => void;
  readonly handed?: HandedStdio;
}

/** Whoever is handed a command's stdio owns the descriptors. */
export function streamsOf(stdio: HostStdio, handOver: HandOver | undefined): CommandStreams {
  return handOver === undefined ? openStreams(stdio) : handedStreams(handOver(stdio));
}

function handedStreams(handed: HandedStdio): CommandStreams {
  const stdin = new Writable();
  stdin.destroy();
  const [stdout, stderr] = [Readable.from([]), Readable.from([])];
  return { stdin, stdout, stderr, read: [], end: handed.end, handed };
}

function openStreams(stdio: HostStdio): CommandStreams {
  if ('terminal' in stdio) {
    const terminal = new ReadStream(stdio.terminal);
    // A terminal without users answers EIO; that is its end of file.
    terminal.on('error', () => terminal.destroy());
    const stderr = Readable.from([]);
    const end = () => endStream(terminal, stdio.terminal);
    return { stdin: terminal, stdout: terminal, stderr, read: [terminal], end };
  }
  const stdin = new Socket({ fd: stdio.stdin, readable: false, writable: true });
  // The command may not read its input.
  stdin.on('error', () => stdin.destroy());
  const output = (fd: number) => new Socket({ fd, readable: true, writable: false });
  const [stdout, stderr] = [output(stdio.stdout), output(stdio.stderr)];
  const end = () => {
    endStream(stdout, stdio.stdout);
    endStream(stderr, stdio.stderr);
  };
  return { stdin, stdout, stderr, read: [stdout, stderr], end };
}

/** asm-generic/ioctls.h */
const FIONREAD = 0x541b;

function endStream(stream: Readable, fd: number): void {
  if (stream.destroyed) return;
  const waiting = Buffer.alloc(4);
  tryCall('ioctl', fd, FIONREAD, waiting);
  let rest = waiting.readInt32LE() + stream.readableLength;
  const take = ({ length }: { readonly length: number }) => {
    rest -= length;
    if (rest <= 0) stream.destroy();
  };
  stream.on('data', take);
  take({ length: 0 });
}

function abandonStreams({ stdin, read }: CommandStreams): void {
  stdin.destroy();
  for (const stream of read) stream.destroy();
}
