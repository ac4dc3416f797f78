/** A connection to kilnd: calls of its API, one after the other. */
import { spawn } from 'node:child_process';
import { addAbortListener, once } from 'node:events';
import { closeSync, constants, openSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { basename, dirname } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { deferred } from '../promise.ts';
import { parameterError } from './interface.ts';
import type { Errors, Methods, Progress } from './io-kiln.ts';

export interface JobOptions {
  /** Ends the job; the signal's reason is thrown. */
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  readonly onWarning?: ((warning: string) => void) | undefined;
}

/** Bytes of a client's words that an error repeats. */
const SAID_MAX = 4096;

interface CallOptions<Reply> {
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

/** What a connection is made of: a socket, or a process's two pipes. */
interface Carrier {
  readonly input: Readable;
  readonly output: Writable;
  readonly ref: () => void;
  readonly unref: () => void;
  readonly destroy: () => void;
  /** Why it ended, where it can tell. */
  readonly why?: () => string;
}

export class Connection implements Disposable {
  readonly #carrier: Carrier;
  readonly #pending: Pending[] = [];
  #parts: Buffer[] = [];
  #end: Error | undefined;
  #isBackground = false;

  private constructor(carrier: Carrier) {
    this.#carrier = carrier;
    const { input, output } = carrier;
    input.on('data', (bytes) => this.#receive(bytes));
    input.on('error', (error) => this.#ended(error));
    if (output !== (input as unknown)) output.on('error', () => undefined);
    input.on('close', () => this.#ended(undefined));
    carrier.unref();
  }

  /** `path` may be longer than a socket's address. Throws Node's own errors. */
  static async open(path: string): Promise<Connection> {
    const flags = constants.O_RDONLY | constants.O_DIRECTORY;
    const folder = openSync(dirname(path), flags);
    try {
      const socket = createConnection(`/proc/self/fd/${folder}/${basename(path)}`);
      await once(socket, 'connect');
      return new Connection({
        ...{ input: socket, output: socket },
        ref: () => socket.ref(),
        unref: () => socket.unref(),
        destroy: () => socket.destroy(),
      });
    } finally {
      closeSync(folder);
    }
  }

  /** Through kiln's own client, which opens the files that calls name with this user's rights. */
  static through(program: string, env: NodeJS.ProcessEnv): Connection {
    const client = spawn(program, ['varlink'], { env, stdio: ['pipe', 'pipe', 'pipe'] });
    const { stdin, stdout, stderr } = client;
    let said = '';
    stderr.on('data', (text: Buffer) => {
      said = `${said}${text}`.slice(0, SAID_MAX);
    });
    client.on('error', (error) => stdout.destroy(error));
    // At run time all three are sockets.
    const all = [client, stdout, stderr] as unknown as Pick<Socket, 'ref' | 'unref'>[];
    return new Connection({
      ...{ input: stdout, output: stdin },
      ref: () => void all.forEach((each) => void each.ref()),
      unref: () => void all.forEach((each) => void each.unref()),
      destroy: () => {
        stdin.destroy();
        stdout.destroy();
      },
      why: () => said,
    });
  }

  async call<Name extends keyof Methods>(
    method: Name,
    parameters: Methods[Name]['parameters'],
    { onReply, signal }: CallOptions<Methods[Name]['reply']> = {},
  ): Promise<Methods[Name]['reply']> {
    signal?.throwIfAborted();
    if (this.#end !== undefined) throw this.#end;
    const last = deferred<object>();
    this.#pending.push({ onReply: onReply as Pending['onReply'], last });
    if (!this.#isBackground) this.#carrier.ref();
    const more = onReply === undefined ? {} : { more: true };
    const { output } = this.#carrier;
    output.write(`${JSON.stringify({ method: `io.kiln.${method}`, parameters, ...more })}\0`);
    const abort = () => {
      this.#end = signal?.reason;
      this.#carrier.destroy();
    };
    using _abort = signal && addAbortListener(signal, abort);
    return (await last.promise) as Methods[Name]['reply'];
  }

  set paused(paused: boolean) {
    if (paused) this.#carrier.input.pause();
    else this.#carrier.input.resume();
  }

  set isBackground(isBackground: boolean) {
    this.#isBackground = isBackground;
    if (isBackground || this.#pending.length === 0) this.#carrier.unref();
    else this.#carrier.ref();
  }

  close(): void {
    this.#carrier.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
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
    if (this.#end !== undefined) return;
    if (continues) {
      try {
        pending?.onReply?.(parameters);
      } catch (error) {
        // Whoever awaits the call hears of it: here it would end the process.
        this.#end = error as Error;
        this.#carrier.destroy();
      }
      return;
    }
    this.#pending.shift();
    if (this.#pending.length === 0) this.#carrier.unref();
    if (error === undefined) pending?.last.resolve(parameters);
    else pending?.last.reject(callError(error, parameters));
  }

  #ended(cause: Error | undefined): void {
    const why = this.#carrier
      .why?.()
      .trim()
      .replace(/^kiln: /, '');
    const message = why ? `kilnd did not answer: ${why}` : 'the connection to kilnd is over';
    this.#end ??= new KilnError('E_NO_DAEMON', message, {
      hint: 'call connect() again; kilnd.log in the state folder may say why it ended',
      cause,
    });
    for (const { last } of this.#pending.splice(0)) last.reject(this.#end);
  }
}

function callError(error: string, parameters: object): KilnError {
  if (error === 'io.kiln.Failed') {
    const { code, message, hint, causes } = parameters as Errors['Failed'];
    const cause = causes.reduceRight<Error | undefined>(
      (before, text) => new Error(text, before === undefined ? {} : { cause: before }),
      undefined,
    );
    // Another version of kiln may have codes that this one does not know.
    return new KilnError(code as ErrorCode, message, { hint, cause });
  }
  if (error === 'org.varlink.service.InvalidParameter') {
    const { parameter } = parameters as { readonly parameter: string };
    // By the interface that the library knows it is right; the standard's error says no more.
    return parameterError(parameter, 'is refused by kilnd, which may be of another version');
  }
  if (error === 'org.varlink.service.PermissionDenied') {
    return new KilnError('E_PERMISSION', 'kilnd does not do this for your user', {
      hint: 'root puts you into the group kiln: `kiln doctor users` says what is missing',
    });
  }
  if (error === 'org.varlink.service.MethodNotFound') {
    const { method } = parameters as { readonly method: string };
    return new KilnError('E_PROTOCOL', `kilnd has no method ${method}`, {
      hint: 'docs/reference/api.md lists them; a kilnd of another version has others',
    });
  }
  return new KilnError('E_PROTOCOL', `kilnd answered with the unknown error ${error}`, {
    hint: 'kilnd may be of another version than this library: compare `kiln --version`',
    details: { ...parameters },
  });
}
