import { EventEmitter } from 'node:events';
import { Listener } from '../host/sockets/listener.ts';
import {
  Call,
  type CallMessage,
  encodeError,
  encodeReply,
  firstMessage,
  isForUsers,
  MESSAGE_MAX,
  parseCall,
  SERVICE_ERROR,
} from './call.ts';
import { CommandLine } from './command-line.ts';
import { Peer } from './peer.ts';
import { ThreadShare } from './thread-share.ts';

const CONNECTIONS_MAX = 4096;

const USER_CONNECTIONS_MAX = 64;

/** Until the first message, ms. */
const SILENCE_MAX = 10_000;

/** The interface's own names: src/api/io.kiln.varlink. */
const COMMAND_LINE = 'io.kiln.CommandLine';
const OTHER_BUILD = 'io.kiln.OtherBuild';

export interface ServerOptions {
  readonly sockets: readonly (string | number)[];
  readonly group: number | undefined;
  readonly build: string;
  readonly serve: (line: CommandLine) => Promise<void>;
  /** `isServed`: by root, or a member of the group. */
  readonly call: (call: Call, isServed: boolean) => Promise<void>;
  readonly failed: (error: unknown) => void;
  readonly activity: Activity;
}

/** `outdated`: a client of root's is of another build. */
export class Server extends EventEmitter<{ outdated: [] }> {
  readonly #options: ServerOptions;
  readonly #listeners: Listener[] = [];
  readonly #peers = new Set<Peer>();

  constructor(options: ServerOptions) {
    super();
    this.#options = options;
    try {
      const connected = (fd: number) => this.#connected(fd);
      for (const socket of options.sockets) {
        this.#listeners.push(
          typeof socket === 'number'
            ? Listener.adopt(socket, connected)
            : Listener.open(socket, connected, options.group),
        );
      }
    } catch (error) {
      this.stopListening();
      throw error;
    }
  }

  get isNamed(): boolean {
    return this.#listeners.every((listener) => listener.isNamed);
  }

  stopListening(): void {
    for (const listener of this.#listeners.splice(0)) listener[Symbol.dispose]();
  }

  #connected(fd: number): void {
    let line: CommandLine | undefined;
    let call: Call | undefined;
    const silence = setTimeout(() => peer.destroy(), SILENCE_MAX);
    let upgraded = false;
    let looked = 0;
    const peer: Peer = new Peer(
      fd,
      {
        data: (bytes) => {
          if (line !== undefined) return line.receive(bytes);
          // Calls are answered one after the other.
          if (call !== undefined) return 0;
          if (!upgraded) {
            const message = firstMessage(bytes, looked);
            looked = message === undefined ? bytes.length : 0;
            if (message === undefined) {
              if (bytes.length > MESSAGE_MAX) peer.destroy();
              return 0;
            }
            if (peer.identity.uid !== 0 && !isForUsers(message)) {
              peer.send(encodeError(SERVICE_ERROR.invalidParameter, { parameter: 'parameters' }));
              peer.end();
              return message.length + 1;
            }
            const called = message.length > MESSAGE_MAX ? undefined : parseCall(message);
            if (called === undefined) peer.destroy();
            else if (called.method === COMMAND_LINE) upgraded = this.#upgrade(peer, called);
            else {
              clearTimeout(silence);
              const begun = Call.from(peer, called);
              call = begun;
              const over = () => {
                call = undefined;
                peer.again();
              };
              // In a later turn: the call may be over at once, while the bytes after it are being read.
              share
                .room()
                .then(() => this.#call(begun, peer))
                .then(over, this.#options.failed);
            }
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
          // In a later turn: it may take over the connection whose bytes are being read.
          share
            .room()
            .then(() => this.#serve(begun))
            .catch(this.#options.failed);
          return bytes.readUInt32LE(0) + 8;
        },
        end: () => {
          clearTimeout(silence);
          this.#peers.delete(peer);
          line?.ended();
          call?.gone();
          held[Symbol.dispose]();
        },
      },
      { trusted: 'root' },
    );
    const share = ThreadShare.of(peer.identity.uid);
    this.#peers.add(peer);
    const held = this.#options.activity.hold();
    if (!this.#hasRoom(peer)) peer.destroy();
  }

  #serves({ identity: { uid, gid, groups } }: Peer): boolean {
    const { group } = this.#options;
    return uid === 0 || (group !== undefined && [gid, ...groups].includes(group));
  }

  #hasRoom({ identity: { uid } }: Peer): boolean {
    if (this.#peers.size > CONNECTIONS_MAX) return false;
    if (uid === 0) return true;
    let own = 0;
    for (const { identity: other } of this.#peers) if (other.uid === uid) own++;
    return own <= USER_CONNECTIONS_MAX;
  }

  #upgrade(peer: Peer, { parameters, upgrade }: CallMessage): boolean {
    const { build } = this.#options;
    if (!this.#serves(peer)) {
      peer.send(encodeError(SERVICE_ERROR.permissionDenied));
      peer.end();
      return false;
    }
    if (parameters.build !== build) {
      peer.send(encodeError(OTHER_BUILD, { build }));
      peer.end();
      // A user's client cannot make the daemon leave everybody else.
      if (peer.identity.uid === 0) this.emit('outdated');
      return false;
    }
    if (upgrade) peer.send(encodeReply());
    else peer.send(encodeError(SERVICE_ERROR.invalidParameter, { parameter: 'upgrade' }));
    return upgrade;
  }

  async #serve(line: CommandLine): Promise<void> {
    using _busy = this.#options.activity.hold();
    try {
      // It may have left while this line waited for room.
      if (!line.gone) await this.#options.serve(line);
    } finally {
      line.abandon();
    }
  }

  async #call(call: Call, peer: Peer): Promise<void> {
    using _busy = this.#options.activity.hold();
    await this.#options.call(call, this.#serves(peer));
    // A caller that asks on without reading gets no more answers.
    await peer.sent();
  }
}

/** Whether anybody wants anything of the daemon: connections, commands, sandboxes that stay open. */
export class Activity extends EventEmitter<{ idle: [isIdle: boolean] }> {
  #held = 0;

  /** Something is wanted, until disposed of. */
  hold(): Disposable {
    this.#held++;
    if (this.#held === 1) this.emit('idle', false);
    const held = new DisposableStack();
    held.defer(() => {
      this.#held--;
      if (this.#held === 0) this.emit('idle', true);
    });
    return held;
  }
}
