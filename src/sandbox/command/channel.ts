import { EventEmitter, once } from 'node:events';
import { openSync } from 'node:fs';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import { attempt, hasErrno } from '../../host/calls/libc.ts';
import { startOf } from '../../host/process/process.ts';
import { waitFor } from '../../host/process/wait-for.ts';
import { connectUnixSocket, peerCredentials } from '../../host/sockets/unix-socket.ts';
import { MessageSender } from '../../host/sockets/watch.ts';
import { awaitedLater } from '../../promise.ts';
import { AnswerDecoder } from '../wire/codec.ts';
import type { Answer } from '../wire/table.ts';

/** Milliseconds. An init needs a few; the rest is for machines that are emulated, swap, or start many at once. */
export const INIT_DEADLINE = 60_000;

/** How often a starting init is tried, milliseconds. */
const PAUSE = 2;

interface ChannelEvents {
  answer: [Answer];
  end: [error: Error | undefined];
}

export class Channel extends EventEmitter<ChannelEvents> {
  /**
   * The init's outer process (src/guest/init.c), by the host's pids. Commands are children of the nested one: what a
   * process passes on to its children does not reach them from here.
   */
  readonly initPid: number;
  readonly #initStart: string | undefined;
  readonly #socket: Socket;
  readonly #sender: MessageSender;
  readonly #decoder = new AnswerDecoder();
  #ended = false;
  #lastId = 0;

  constructor(fd: number) {
    super();
    this.setMaxListeners(0);
    this.initPid = peerCredentials(fd).pid;
    this.#initStart = startOf(this.initPid);
    this.#socket = new Socket({ fd, readable: true, writable: true });
    this.#sender = new MessageSender(fd, (error) => {
      // An init that hangs up may have said why: that is still to be read, and then the end.
      if (!isHangUp(error)) this.#socket.destroy(error);
    });
    this.#socket.on('data', (chunk) => this.#receive(chunk));
    this.#socket.on('error', (error) => this.#end(isHangUp(error) ? undefined : error));
    this.#socket.on('close', () => this.#end(undefined));
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** For a request or command that the init answers by its id. */
  newId(): number {
    return ++this.#lastId;
  }

  /**
   * Queues the message while the init does not read: the init may itself be waiting for kiln to read. The caller
   * closes its copies of the descriptors.
   */
  send(message: Buffer, fds: readonly number[] = []): void {
    if (this.#ended) throw sandboxGoneError();
    try {
      this.#sender.send(message, fds);
    } catch (error) {
      if (isHangUp(error)) throw sandboxGoneError(error);
      throw error;
    }
  }

  ask<Result>(accept: (answer: Answer) => Result | undefined): Promise<Result> {
    return waitFor(awaitedLater(this.wait(accept)), {
      whom: () => ({ name: `the init of a sandbox (pid ${this.initPid})`, pid: this.initPid }),
      code: 'E_INIT_SILENT',
      hint: '`kiln ps` lists the sandboxes, and `kiln kill ID` ends one',
    });
  }

  /** @param signal the answer is waited for no more; rejects with its reason */
  async wait<Result>(
    accept: (answer: Answer) => Result | undefined,
    signal?: AbortSignal,
  ): Promise<Result> {
    if (this.#ended) throw sandboxGoneError();
    return await new Promise<Result>((resolve, reject) => {
      signal?.addEventListener('abort', () => {
        this.off('answer', onAnswer);
        this.off('end', onEnd);
        reject(signal.reason);
      });
      const onAnswer = (answer: Answer) => {
        try {
          const result = accept(answer);
          if (result === undefined) return;
          resolve(result);
        } catch (error) {
          reject(error);
        }
        this.off('answer', onAnswer);
        this.off('end', onEnd);
      };
      const onEnd = (error: Error | undefined) =>
        reject(error instanceof KilnError ? error : sandboxGoneError(error));
      this.on('answer', onAnswer);
      this.once('end', onEnd);
    });
  }

  /** In a container: that of its init. @throws KilnError E_SANDBOX_GONE */
  openRoot(): number {
    const root = attempt(() => openSync(`/proc/${this.initPid}/root`, 'r'));
    if (root === undefined) throw sandboxGoneError();
    // Another process may have the number of an init that has ended: its root would be the host's.
    if (this.#initStart !== undefined && startOf(this.initPid) === this.#initStart) return root;
    closeDescriptor(root);
    throw sandboxGoneError();
  }

  /** Closes the connection: the init kills everything and the domain ends by itself. */
  async close(): Promise<void> {
    if (this.#ended) return;
    const closed = awaitedLater(once(this.#socket, 'close'));
    this.#sender.stop();
    this.#socket.destroy();
    await closed;
  }

  #receive(chunk: Buffer): void {
    try {
      for (const answer of this.#decoder.push(chunk)) this.emit('answer', answer);
    } catch (error) {
      this.#socket.destroy(error as Error);
    }
  }

  #end(error: Error | undefined): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#sender.stop();
    this.emit('end', error);
  }
}

/** ECONNRESET where what kiln has sent was not read before the end. */
function isHangUp(error: unknown): boolean {
  return hasErrno(error, 'EPIPE', 'ECONNRESET');
}

function sandboxGoneError(cause?: unknown): KilnError {
  return new KilnError('E_SANDBOX_GONE', 'the sandbox has ended', {
    cause,
    hint: '`journalctl -k` shows whether the kernel killed it; try again',
  });
}

/**
 * With `domain`, a starting domain, waits for the init: throws E_INIT_SILENT, and what `domain` rejects with.
 * Without it the init must listen already: throws E_SANDBOX_GONE.
 */
export async function openChannel(
  path: string,
  {
    domain,
    within = INIT_DEADLINE,
  }: { readonly domain?: Promise<unknown>; readonly within?: number } = {},
): Promise<Channel> {
  const deadline = Date.now() + within;
  let refused = false;
  domain?.catch(() => {
    refused = true;
  });
  for (;;) {
    if (refused) await domain;
    try {
      return new Channel(connectUnixSocket(path));
    } catch (error) {
      if (!hasErrno(error, 'ENOENT', 'ECONNREFUSED', 'EAGAIN')) throw error;
      if (domain === undefined && !hasErrno(error, 'EAGAIN')) throw sandboxGoneError(error);
      if (Date.now() > deadline) {
        throw new KilnError(
          'E_INIT_SILENT',
          `the guest init did not open its socket in ${within / 1000} s`,
          { cause: error, hint: 'the console log of the domain says why: see `kiln doctor`' },
        );
      }
      await sleep(PAUSE);
    }
  }
}
