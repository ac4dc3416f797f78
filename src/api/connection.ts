/** A connection of programs to the daemon: calls of the API, one after the other. */
import { once } from 'node:events';
import { closeSync, constants, openSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { basename, dirname } from 'node:path';
import { type ErrorCode, isErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { deferred } from '../promise.ts';
import type { Errors, Methods } from './io-kiln.ts';

/** Options of a call, beside its parameters. */
export interface CallOptions<Reply> {
  /** Called with each reply but the last. */
  readonly onReply?: ((reply: Reply) => void) | undefined;
  /** Ends the connection and its jobs; the signal's reason is thrown. */
  readonly signal?: AbortSignal | undefined;
}

interface Pending {
  readonly onReply: ((reply: object) => void) | undefined;
  readonly last: PromiseWithResolvers<object>;
}

interface ReplyMessage {
  readonly error?: string;
  readonly parameters?: object;
  readonly continues?: boolean;
}

export class Connection {
  readonly #socket: Socket;
  readonly #pending: Pending[] = [];
  #parts: Buffer[] = [];
  #end: Error | undefined;
  #isBackground = false;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (bytes) => this.#receive(bytes));
    socket.on('error', (error) => this.#ended(error));
    socket.on('close', () => this.#ended(undefined));
    socket.unref();
  }

  /**
   * Connects to the socket at `path`, which may be longer than a socket's address. Throws Node's own errors.
   */
  static async open(path: string): Promise<Connection> {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY;
    const folder = openSync(dirname(path), flags);
    try {
      const socket = connect(`/proc/self/fd/${folder}/${basename(path)}`);
      await once(socket, 'connect');
      return new Connection(socket);
    } finally {
      closeSync(folder);
    }
  }

  /**
   * Calls a method; resolves with its last reply.
   * @throws KilnError: those of the daemon, E_NO_DAEMON where it is gone
   */
  async call<Name extends keyof Methods>(
    method: Name,
    parameters: Methods[Name]['parameters'],
    { onReply, signal }: CallOptions<Methods[Name]['reply']> = {},
  ): Promise<Methods[Name]['reply']> {
    signal?.throwIfAborted();
    if (this.#end !== undefined) throw this.#end;
    const last = deferred<object>();
    this.#pending.push({ onReply: onReply as Pending['onReply'], last });
    if (!this.#isBackground) this.#socket.ref();
    const more = onReply === undefined ? {} : { more: true };
    this.#socket.write(`${JSON.stringify({ method: `io.kiln.${method}`, parameters, ...more })}\0`);
    const abort = () => {
      this.#end = signal?.reason;
      this.#socket.destroy();
    };
    signal?.addEventListener('abort', abort, { once: true });
    try {
      return (await last.promise) as Methods[Name]['reply'];
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** While `paused`, replies wait. */
  set paused(paused: boolean) {
    if (paused) this.#socket.pause();
    else this.#socket.resume();
  }

  /** In the background, the connection does not keep this process alive. */
  set isBackground(isBackground: boolean) {
    this.#isBackground = isBackground;
    if (isBackground || this.#pending.length === 0) this.#socket.unref();
    else this.#socket.ref();
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(bytes: Buffer): void {
    let from = 0;
    for (let end = bytes.indexOf(0); end !== -1; end = bytes.indexOf(0, from)) {
      const message = Buffer.concat([...this.#parts.splice(0), bytes.subarray(from, end)]);
      from = end + 1;
      this.#take(JSON.parse(message.toString()) as ReplyMessage);
    }
    if (from < bytes.length) this.#parts.push(bytes.subarray(from));
  }

  #take({ error, parameters = {}, continues = false }: ReplyMessage): void {
    const [pending] = this.#pending;
    if (continues) {
      pending?.onReply?.(parameters);
      return;
    }
    this.#pending.shift();
    if (this.#pending.length === 0) this.#socket.unref();
    if (error === undefined) pending?.last.resolve(parameters);
    else pending?.last.reject(failure(error, parameters));
  }

  #ended(cause: Error | undefined): void {
    this.#end ??= new KilnError('E_NO_DAEMON', 'the connection to kilnd is over', {
      hint: 'call connect() again; kilnd.log in the state directory may say why it ended',
      cause,
    });
    for (const { last } of this.#pending.splice(0)) last.reject(this.#end);
  }
}

/** An error of the daemon as an error of this process. */
function failure(error: string, parameters: object): KilnError {
  if (error === 'io.kiln.Failed') {
    const { code, message, hint, causes } = parameters as Errors['Failed'];
    const cause = causes.reduceRight<Error | undefined>(
      (before, text) => new Error(text, before === undefined ? {} : { cause: before }),
      undefined,
    );
    // Another version of kiln may have codes that this one does not know.
    const known = isErrorCode(code) ? code : (code as ErrorCode);
    return new KilnError(known, message, { hint, cause });
  }
  if (error === 'org.varlink.service.InvalidParameter') {
    const { parameter } = parameters as { readonly parameter: string };
    const message = `${parameter || 'the parameters'}: missing, unknown, or not of its type`;
    return new KilnError('E_ARGUMENT', message, { hint: 'docs/reference/api.md lists the fields' });
  }
  if (error === 'org.varlink.service.PermissionDenied') {
    return new KilnError('E_PERMISSION', 'kilnd does not do this for your user', {
      hint: 'call it as root',
    });
  }
  return new KilnError('E_PROTOCOL', `kilnd answered with the unknown error ${error}`, {
    hint: 'kilnd may be of another version than this library: compare `kiln --version`',
    details: { ...parameters },
  });
}
