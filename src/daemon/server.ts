/** Takes connections, reads what they ask for, and knows when nobody asks for anything any more. */
import { CommandLine } from './command-line.ts';
import { Listener } from './listener.ts';
import { Peer } from './peer.ts';
import { encodeError, encodeReply, firstMessage, MESSAGE_MAX, parseCall } from './varlink.ts';

/** Connections at a time; those beyond are closed at once. */
const CONNECTIONS_MAX = 4096;

/** How long a connection may take to say what it wants, milliseconds. */
const SILENCE_MAX = 10_000;

/** The interface's own names: src/api/io.kiln.varlink. */
const METHOD = { commandLine: 'io.kiln.CommandLine', info: 'org.varlink.service.GetInfo' } as const;
const ERROR = {
  otherBuild: 'io.kiln.OtherBuild',
  unknownMethod: 'org.varlink.service.MethodNotFound',
  badParameter: 'org.varlink.service.InvalidParameter',
} as const;

export interface ServerOptions {
  /** Paths to listen at, and descriptors of sockets that listen already. */
  readonly sockets: readonly (string | number)[];
  /** What clients of this build say; others are refused, and `outdated` is called. */
  readonly build: string;
  readonly version: string;
  /** Runs a command line. It is over when the promise is settled. */
  readonly serve: (line: CommandLine) => Promise<void>;
  /** What `serve` did not expect. */
  readonly failed: (error: unknown) => void;
  /** A client of another build has come: this daemon is to make room for one of that build. */
  readonly outdated: () => void;
  /** Nobody is connected, and no command line is running, from now on (true), or no longer (false). */
  readonly idle: (idle: boolean) => void;
}

export class Server {
  readonly #options: ServerOptions;
  readonly #listeners: Listener[] = [];
  readonly #peers = new Set<Peer>();
  #running = 0;
  #idle = false;

  /** Listens on all sockets. @throws SyscallError, Node's own errors of the file system */
  constructor(options: ServerOptions) {
    this.#options = options;
    try {
      const connected = (fd: number) => this.#connected(fd);
      for (const socket of options.sockets) {
        this.#listeners.push(
          typeof socket === 'number'
            ? Listener.adopt(socket, connected)
            : Listener.open(socket, connected),
        );
      }
    } catch (error) {
      this.stopListening();
      throw error;
    }
    this.#tellIdle();
  }

  /** Whether whoever looks for its sockets finds them. */
  get isNamed(): boolean {
    return this.#listeners.every((listener) => listener.isNamed);
  }

  /** Takes no more connections; those that are there go on. */
  stopListening(): void {
    for (const listener of this.#listeners.splice(0)) listener[Symbol.dispose]();
  }

  #connected(fd: number): void {
    let line: CommandLine | undefined;
    const silence = setTimeout(() => peer.destroy(), SILENCE_MAX);
    let upgraded = false;
    const peer: Peer = new Peer(
      fd,
      {
        data: (bytes) => {
          if (line !== undefined) return line.receive(bytes);
          if (!upgraded) {
            const message = firstMessage(bytes);
            if (message === undefined) return 0;
            upgraded = this.#answer(peer, message);
            return message.length + 1;
          }
          const begun = CommandLine.begin(peer, bytes);
          if (begun === 'incomplete') return 0;
          clearTimeout(silence);
          if (begun === undefined) {
            peer.destroy();
            return 0;
          }
          line = begun;
          // In a later turn: it may take the connection away, whose bytes are being read right now.
          queueMicrotask(() => this.#run(begun).catch(this.#options.failed));
          return bytes.readUInt32LE(0) + 8;
        },
        end: () => {
          clearTimeout(silence);
          this.#peers.delete(peer);
          line?.ended();
          this.#tellIdle();
        },
      },
      MESSAGE_MAX,
    );
    this.#peers.add(peer);
    if (this.#peers.size > CONNECTIONS_MAX) peer.destroy();
    this.#tellIdle();
  }

  /** Answers a message of the Varlink protocol; true if the connection is upgraded by it. */
  #answer(peer: Peer, message: Buffer): boolean {
    const call = parseCall(message);
    if (call === undefined) {
      peer.destroy();
      return false;
    }
    switch (call.method) {
      case METHOD.commandLine:
        if (call.parameters.build !== this.#options.build) {
          peer.send(encodeError(ERROR.otherBuild, { build: this.#options.build }));
          peer.end();
          this.#options.outdated();
          return false;
        }
        if (call.upgrade) {
          peer.send(encodeReply());
          return true;
        }
        peer.send(encodeError(ERROR.badParameter, { parameter: 'upgrade' }));
        return false;
      case METHOD.info:
        peer.send(
          encodeReply({
            vendor: 'kiln',
            product: 'kilnd',
            version: this.#options.version,
            url: '',
            interfaces: ['org.varlink.service', 'io.kiln'],
          }),
        );
        return false;
      default:
        peer.send(encodeError(ERROR.unknownMethod, { method: call.method }));
        return false;
    }
  }

  async #run(line: CommandLine): Promise<void> {
    this.#running++;
    this.#tellIdle();
    try {
      await this.#options.serve(line);
    } finally {
      this.#running--;
      line.abandon();
      this.#tellIdle();
    }
  }

  #tellIdle(): void {
    const idle = this.#peers.size === 0 && this.#running === 0;
    if (idle === this.#idle) return;
    this.#idle = idle;
    this.#options.idle(idle);
  }
}
