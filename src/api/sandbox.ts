import { addAbortListener, once } from 'node:events';
import { isKilnCode } from '../errors.ts';
import { awaitedLater, deferred } from '../promise.ts';
import { type CommandOptions, SandboxCommand, type SpawnOptions } from './command.ts';
import type { Connection, JobOptions } from './connection.ts';
import { checkOptions, isContent, parameterError } from './interface.ts';
import type { OpenSandboxParameters } from './io-kiln.ts';

/** The most bytes of a file or of input in one call: a message has 2 MiB at most where a user who is not root sends it. */
export const PIECE = 1 << 20;

export interface ExecOptions extends CommandOptions {
  readonly input?: string | Uint8Array;
}

export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
}

/** The error of a failed command, as in child_process, with its output. */
export class ExecError extends Error implements ExecResult {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;

  constructor(
    words: readonly string[],
    { exitCode, signalCode }: SandboxCommand,
    { stdout, stderr }: ExecResult,
  ) {
    super(`Command failed: ${words.join(' ')}\n${stderr}`);
    this.name = new.target.name;
    this.code = exitCode;
    this.signal = signalCode;
    this.stdout = stdout;
    this.stderr = stderr;
  }
}

interface Opened {
  readonly id: string;
  readonly image: { readonly id: string; readonly name: string };
}

/** Use `await using`, or call `close()`: nothing of the sandbox is left then. */
export class Sandbox implements Opened, AsyncDisposable {
  readonly id: string;
  readonly image: { readonly id: string; readonly name: string };
  readonly #open: () => Promise<Connection>;
  readonly #connection: Connection;
  readonly #own: Connection;
  readonly #gone: Promise<unknown>;

  private constructor(
    opened: Opened,
    open: () => Promise<Connection>,
    connection: Connection,
    own: Connection,
    gone: Promise<unknown>,
  ) {
    this.id = opened.id;
    this.image = opened.image;
    this.#open = open;
    this.#connection = connection;
    this.#own = own;
    this.#gone = gone;
  }

  /** @param own the sandbox lives until this connection ends */
  static async open(
    open: () => Promise<Connection>,
    connection: Connection,
    own: Connection,
    parameters: OpenSandboxParameters,
    { signal, onProgress, onWarning }: JobOptions,
  ): Promise<Sandbox> {
    const opened = deferred<Opened>();
    const abort = () => {
      opened.reject(signal?.reason);
      own.close();
    };
    using _abort = signal && addAbortListener(signal, abort);
    const gone = awaitedLater(
      own
        .call('OpenSandbox', parameters, {
          onReply: ({ sandbox: id, image, progress, warning }) => {
            if (progress !== undefined) onProgress?.(progress);
            if (warning !== undefined) onWarning?.(warning);
            if (id !== undefined && image !== undefined) opened.resolve({ id, image });
          },
        })
        .finally(() => own.close()),
    );
    gone.catch(opened.reject);
    const result = await opened.promise;
    own.isBackground = true;
    return new Sandbox(result, open, connection, own, gone);
  }

  /** Resolves when the sandbox has ended, for whatever reason. */
  get closed(): Promise<void> {
    return this.#gone.then(
      () => undefined,
      () => undefined,
    );
  }

  /** Starts a command, as child_process.spawn() does; failures come as its event `error`. */
  spawn(command: string, args: readonly string[] = [], options: SpawnOptions = {}): SandboxCommand {
    checkOptions(options);
    if (!Array.isArray(args)) throw parameterError('args');
    const argv = [command, ...args];
    return new SandboxCommand(this.#open, { ...options, sandbox: this.id, argv });
  }

  /** Runs a program to its end, as child_process.execFile() does. Throws {@link ExecError} if it fails. */
  async execFile(
    file: string,
    args: readonly string[] = [],
    given: ExecOptions = {},
  ): Promise<ExecResult> {
    checkOptions(given);
    const { input, ...options } = given;
    const command = this.spawn(file, args, options);
    const ended = awaitedLater(once(command, 'close'));
    const [stdout, stderr]: [Buffer[], Buffer[]] = [[], []];
    command.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
    command.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
    // The command may not read its input.
    command.stdin.on('error', () => undefined).end(input);
    await ended;
    const text = (chunks: readonly Buffer[]) => Buffer.concat(chunks).toString();
    const result = { stdout: text(stdout), stderr: text(stderr) };
    if (command.exitCode === 0) return result;
    throw new ExecError([file, ...args], command, result);
  }

  /** Runs a shell command to its end, as child_process.exec() does. Throws {@link ExecError} if it fails. */
  async exec(line: string, options: ExecOptions = {}): Promise<ExecResult> {
    return await this.execFile('/bin/sh', ['-c', line], options);
  }

  async readFile(path: string): Promise<Buffer> {
    const parts: Buffer[] = [];
    for (let offset = 0; ; ) {
      const wanted = { sandbox: this.id, path, offset };
      const { data, size } = await this.#connection.call('ReadFile', wanted);
      const part = Buffer.from(data, 'base64');
      parts.push(part);
      offset += part.length;
      if (part.length === 0 || offset >= size) return Buffer.concat(parts);
    }
  }

  /** Writes a file, which belongs to the sandbox's user. */
  async writeFile(
    path: string,
    content: string | Uint8Array,
    options: { readonly mode?: number } = {},
  ): Promise<void> {
    checkOptions(options);
    if (!isContent(content)) throw parameterError('content');
    const { mode } = options;
    const bytes = Buffer.from(content);
    for (let at = 0; at === 0 || at < bytes.length; at += PIECE) {
      const data = bytes.toString('base64', at, at + PIECE);
      const parameters = { sandbox: this.id, path, data, append: at > 0, mode };
      await this.#connection.call('WriteFile', parameters);
    }
  }

  /** Ends everything in the sandbox. Safe to call again. */
  async close(): Promise<void> {
    try {
      await this.#connection.call('CloseSandbox', { sandbox: this.id });
    } catch (error) {
      if (!isKilnCode(error, 'E_NO_SANDBOX')) throw error;
      // What a worker has opened ends with its connection.
      this.#own.close();
    }
    this.#own.isBackground = false;
    await this.closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
