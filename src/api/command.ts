import { EventEmitter } from 'node:events';
import { constants } from 'node:os';
import { Readable, Writable } from 'node:stream';
import { signalName } from '../host/process/signals.ts';
import { awaitedLater, deferred } from '../promise.ts';
import type { Connection } from './connection.ts';
import type { Ended, ExecuteParameters } from './io-kiln.ts';

/** Bytes of input in one call. */
const PIECE = 256 << 10;

/** Of commands of every kind. */
export interface CommandOptions {
  /** Added to the image's variables. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** The time limit, milliseconds. */
  readonly timeout?: number | undefined;
  readonly signal?: AbortSignal;
}

export interface SpawnOptions extends CommandOptions {
  /** A terminal of this size instead of three pipes; `stdout` has all its output. */
  readonly terminal?: { readonly rows: number; readonly columns: number };
}

interface SpawnedCommand extends SpawnOptions {
  readonly sandbox: string;
  readonly argv: readonly string[];
}

interface SandboxCommandEvents {
  spawn: [];
  /** The command has ended; output may still come. */
  exit: [code: number | null, signal: NodeJS.Signals | null];
  /** The command has ended and all its output has been read. */
  close: [code: number | null, signal: NodeJS.Signals | null];
  error: [error: Error];
}

/** stdin, stdout, stderr, pid, kill(), exitCode, signalCode and events. `pid` is the one in the sandbox. */
export class SandboxCommand extends EventEmitter<SandboxCommandEvents> {
  readonly stdin: Writable;
  readonly stdout: Readable;
  /** Empty with a terminal. */
  readonly stderr: Readable;
  readonly spawnfile: string;
  readonly spawnargs: readonly string[];
  pid: number | undefined;
  exitCode: number | null = null;
  signalCode: NodeJS.Signals | null = null;
  killed = false;
  ended: Ended | undefined;
  readonly #open: () => Promise<Connection>;
  readonly #started = deferred<string>();
  /** A connection for input and signals: its own connection is busy with its output. */
  #control: Promise<Connection> | undefined;
  #own: Connection | undefined;

  constructor(open: () => Promise<Connection>, options: SpawnedCommand) {
    super();
    const { sandbox, argv, env, cwd, terminal, timeout, signal } = options;
    this.#open = open;
    this.spawnfile = argv[0] ?? '';
    this.spawnargs = argv;
    const goOn = () => {
      if (this.#own !== undefined) this.#own.paused = false;
    };
    this.stdout = new Readable({ read: goOn });
    this.stderr = new Readable({ read: goOn });
    this.stdin = new Writable({
      write: (chunk: Buffer, _, done) => {
        this.#input(chunk).then(() => done(), done);
      },
      final: (done) => {
        this.#send({ end: true })
          .catch(() => undefined)
          .finally(done);
      },
    });
    const parameters = { sandbox, argv, env, workdir: cwd, terminal, timeout, interactive: true };
    this.#run(parameters, signal).catch((error: Error) => this.#fail(error));
  }

  async #run(parameters: ExecuteParameters, signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted();
    const own = await this.#open();
    this.#own = own;
    try {
      const { result } = await own.call('Execute', parameters, {
        signal,
        onReply: ({ started, stdout, stderr }) => {
          if (started !== undefined) {
            this.pid = started.pid;
            this.#started.resolve(started.process);
            this.emit('spawn');
          }
          this.#push(this.stdout, stdout);
          this.#push(this.stderr, stderr);
        },
      });
      this.#finish(result ?? { exitCode: 0, exitStatus: 0 });
    } finally {
      own.close();
      this.#control?.then((control) => control.close()).catch(() => undefined);
    }
  }

  #push(stream: Readable, data: string | undefined): void {
    if (data === undefined || stream.destroyed) return;
    if (!stream.push(Buffer.from(data, 'base64')) && this.#own !== undefined)
      this.#own.paused = true;
  }

  #finish(ended: Ended): void {
    this.ended = ended;
    this.exitCode = ended.exitCode ?? null;
    this.signalCode = (ended.signal as NodeJS.Signals | undefined) ?? null;
    this.stdin.destroy();
    this.emit('exit', this.exitCode, this.signalCode);
    this.#endStreams();
  }

  #fail(error: Error): void {
    this.#started.reject(error);
    this.stdin.destroy();
    this.emit('error', error);
    this.#endStreams();
  }

  #endStreams(): void {
    const streams = [this.stdout, this.stderr].filter((stream) => !stream.closed);
    let open = streams.length;
    const closed = () => {
      open--;
      if (open <= 0) this.emit('close', this.exitCode, this.signalCode);
    };
    for (const stream of streams) {
      stream.once('close', closed);
      if (!stream.destroyed) stream.push(null);
      // As in child_process, output that nobody reads is discarded.
      if (stream.readableFlowing === null) stream.resume();
    }
    if (open === 0) closed();
  }

  /** To its process group. False if it has ended. Throws TypeError for an unknown signal. */
  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    const name = typeof signal === 'number' ? signalName(signal) : signal;
    if (name === undefined || !(name in constants.signals))
      throw new TypeError(`unknown signal ${signal}`);
    if (this.ended !== undefined) return false;
    this.killed = true;
    this.#call((control, process) => control.call('SendSignal', { process, signal: name })).catch(
      () => undefined,
    );
    return true;
  }

  resize(rows: number, columns: number): void {
    this.#call((control, process) =>
      control.call('ResizeTerminal', { process, rows, columns }),
    ).catch(() => undefined);
  }

  async #input(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; at += PIECE) {
      await this.#send({ data: bytes.toString('base64', at, at + PIECE) });
    }
  }

  async #send(input: { readonly data?: string; readonly end?: boolean }): Promise<void> {
    await this.#call((control, process) => control.call('SendInput', { process, ...input }));
  }

  async #call(act: (control: Connection, process: string) => Promise<unknown>): Promise<void> {
    const process = await this.#started.promise;
    this.#control ??= awaitedLater(this.#open());
    await act(await this.#control, process);
  }
}
