import { once } from 'node:events';
import { connect, Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { awaitedLater } from '../../promise.ts';
import { hasErrno } from '../calls/libc.ts';
import { onFrames, type ReceivedFrame } from './frames.ts';
import { Listener } from './listener.ts';
import { NOBODY_LISTENS } from './unix-socket.ts';

/** The socket of what lives long: whoever connects says in frames what is wanted. Its folder is root's alone. */
export class FrameServer {
  readonly #listener: Listener;
  readonly #clients = new Set<Socket>();

  /** @param serve returns what takes the frames of a client @throws as Listener.open() */
  constructor(path: string, serve: (client: Socket, fd: number) => (frame: ReceivedFrame) => void) {
    this.#listener = Listener.open(path, (fd) => {
      const client = new Socket({ fd, readable: true, writable: true });
      this.#clients.add(client);
      client.on('error', () => client.destroy());
      client.once('close', () => this.#clients.delete(client));
      onFrames(client, serve(client, fd));
    });
  }

  get clients(): ReadonlySet<Socket> {
    return this.#clients;
  }

  /** Lets nobody in any more, and removes the socket. */
  close(): void {
    this.#listener[Symbol.dispose]();
  }

  /** Resolves once the clients of now have hung up, or after `most` milliseconds. */
  async left(most?: number): Promise<void> {
    const hangUp = async (client: Socket) => void (await once(client, 'close'));
    const all = awaitedLater(Promise.all([...this.#clients].map(hangUp)));
    await (most === undefined ? all : Promise.race([all, sleep(most, undefined, { ref: false })]));
  }
}

/** A connection to whoever listens at `path`; undefined where nobody does. @throws Node's own errors */
export async function connectFrames(path: string): Promise<Socket | undefined> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    if (hasErrno(error, ...NOBODY_LISTENS)) return undefined;
    throw error;
  }
}
