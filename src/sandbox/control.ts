import { KilnError } from '../errors.ts';
import { closeDescriptor } from '../kernel/descriptor.ts';
import { errnoName } from '../kernel/libc.ts';
import { receiveDescriptor, unixSocketPair } from '../kernel/unix-socket.ts';
import { awaitedLater } from '../promise.ts';
import type { Channel } from './channel.ts';
import { type ExitedAnswer, signalNumber } from './process.ts';
import { encodeSignal } from './protocol/exec.ts';
import { FieldWriter, text, u32 } from './protocol/fields.ts';

/** Messages of src/guest/service.c, and their fields: see src/guest/protocol.h. */
const REQUEST = {
  directory: 7,
  socket: 8,
  adopt: 9,
  killSession: 10,
  notifySocket: 11,
  dhcpSocket: 12,
  address: 13,
} as const;
const FIELD = {
  id: 1,
  signal: 11,
  directory: 13,
  family: 14,
  pid: 15,
  path: 16,
  address: 20,
} as const;

/** linux/socket.h */
const FAMILY = { ipv4: 2, ipv6: 10 } as const;

/** Ids of requests lie above those that a sandbox counts its commands by. */
const FIRST_ID = 2 ** 30;

/** A directory of the box; ids are the box's own. */
export interface BoxDirectory {
  readonly path: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** An interface's address, IPv4 and dotted. */
export interface BoxAddress {
  readonly address: string;
  readonly mask: string;
  readonly gateway?: string;
}

/** A process that nobody started through kiln: a daemon that left its parent. */
export interface AdoptedProcess {
  /** In the box. */
  readonly pid: number;
  readonly session: number;
  readonly ended: Promise<ExitedAnswer>;
  kill(signal: NodeJS.Signals): void;
}

/** What a supervisor of services asks of a box's init, beyond starting commands. */
export class BoxControl {
  readonly #channel: Channel;
  #nextId = FIRST_ID;

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  /** Resolves when the box is gone. */
  get gone(): Promise<void> {
    if (this.#channel.ended) return Promise.resolve();
    return new Promise((resolve) => this.#channel.once('end', () => resolve()));
  }

  /** Makes directories, or gives existing ones that mode and owner. Throws E_SERVICE_BOX. */
  async makeDirectories(directories: readonly BoxDirectory[]): Promise<void> {
    if (directories.length === 0) return;
    await this.#ask(REQUEST.directory, (fields) => {
      for (const { path, mode, uid, gid } of directories) {
        fields.add(FIELD.directory, u32(mode), u32(uid), u32(gid), text(path));
      }
    });
  }

  /**
   * A new, unconnected, non-blocking stream socket of the box's network; the caller closes it.
   * Throws E_SERVICE_BOX.
   */
  socket(family: keyof typeof FAMILY): Promise<number> {
    const fill = (fields: FieldWriter) => void fields.add(FIELD.family, u32(FAMILY[family]));
    return this.#socket(REQUEST.socket, fill);
  }

  /**
   * A datagram socket of one of the box's interfaces, on the port of DHCP clients; the caller closes
   * it. Throws E_SERVICE_BOX.
   */
  dhcpSocket(name: string): Promise<number> {
    return this.#socket(REQUEST.dhcpSocket, (fields) => void fields.add(FIELD.path, text(name)));
  }

  /** Gives an interface an address instead of any it has, and a default route. Throws E_SERVICE_BOX. */
  async setAddress(name: string, { address, mask, gateway }: BoxAddress): Promise<void> {
    const parts = [address, mask, gateway ?? '0.0.0.0'].map((dotted) =>
      Buffer.from(dotted.split('.').map(Number)),
    );
    await this.#ask(REQUEST.address, (fields) => {
      fields.add(FIELD.path, text(name)).add(FIELD.address, ...parts);
    });
  }

  async #socket(type: number, fill: (fields: FieldWriter) => void): Promise<number> {
    const [ours, theirs] = unixSocketPair();
    try {
      await this.#ask(type, fill, [theirs]);
      const socket = receiveDescriptor(ours);
      if (socket === undefined) throw new KilnError('E_SERVICE_BOX', 'the init sent no socket');
      return socket;
    } finally {
      closeDescriptor(ours);
      closeDescriptor(theirs);
    }
  }

  /** Watches an orphan of the box, by its pid there, from now on. Throws E_SERVICE_BOX. */
  async adopt(pid: number): Promise<AdoptedProcess> {
    const id = this.#nextId;
    // The id that the request below takes; listening first, for it may end at once.
    const ended = awaitedLater(
      this.#channel.wait((answer) =>
        answer.type === 'exited' && answer.id === id ? answer : undefined,
      ),
    );
    const session = await this.#ask(REQUEST.adopt, (fields) => {
      fields.add(FIELD.pid, u32(pid));
    });
    return {
      pid,
      session,
      ended,
      kill: (signal) => this.#channel.send(encodeSignal(id, signalNumber(signal))),
    };
  }

  /** Sends a signal to every process of a session (setsid(2)); gives how many there were. */
  killSession(session: number, signal: NodeJS.Signals): Promise<number> {
    return this.#ask(REQUEST.killSession, (fields) => {
      fields.add(FIELD.pid, u32(session)).add(FIELD.signal, u32(signalNumber(signal)));
    });
  }

  /**
   * Makes the socket that `NOTIFY_SOCKET` names, once; `heard` is told who said what.
   * Throws E_SERVICE_BOX.
   */
  async listenForNotifications(
    path: string,
    heard: (pid: number, text: string) => void,
  ): Promise<void> {
    this.#channel.on('answer', (answer) => {
      if (answer.type === 'notify') heard(answer.pid, answer.text);
    });
    await this.#ask(REQUEST.notifySocket, (fields) => void fields.add(FIELD.path, text(path)));
  }

  async #ask(
    type: number,
    fill: (fields: FieldWriter) => void,
    fds: readonly number[] = [],
  ): Promise<number> {
    const id = this.#nextId++;
    const fields = new FieldWriter().add(FIELD.id, u32(id));
    fill(fields);
    const answered = awaitedLater(
      this.#channel.ask((answer) => {
        if (answer.type === 'failed' && answer.id === id) {
          const errno = errnoName(answer.errno);
          throw new KilnError('E_SERVICE_BOX', `the sandbox could not ${answer.what}: ${errno}`, {
            details: { errno },
          });
        }
        return answer.type === 'done' && answer.id === id ? answer.value : undefined;
      }),
    );
    this.#channel.send(fields.message(type), fds);
    return await answered;
  }
}
