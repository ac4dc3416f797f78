import { EventEmitter } from 'node:events';
import { Readable, Writable } from 'node:stream';
import { signalNumber } from '../../host/process/signals.ts';
import { CHUNK_BYTES, type ParentMessage } from './script-protocol.ts';
import type { ChildMessage } from './script-session.ts';

/** Above any pid of Linux (PID_MAX_LIMIT is 2^22): zx signals process groups by `pid` to abort a command. */
const FIRST_ID = 10_000_000;

interface RemoteEvents {
  spawn: [];
  exit: [code: number | null, signal: NodeJS.Signals | null];
  close: [code: number | null, signal: NodeJS.Signals | null];
  error: [error: Error];
}

/** A command in the shape of node:child_process; `pid` is a number of kiln's own. */
class RemoteProcess extends EventEmitter<RemoteEvents> {
  readonly pid: number;
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  exitCode: number | null = null;
  signalCode: NodeJS.Signals | null = null;
  killed = false;
  readonly #send: (message: ChildMessage) => void;
  #accepted: (() => void) | undefined;
  #ended = false;
  #open = 2;

  constructor(pid: number, send: (message: ChildMessage) => void) {
    super();
    this.pid = pid;
    this.#send = send;
    this.stdin = new Writable({
      // One chunk under way at a time: kiln says when the command has taken it.
      write: (chunk: Buffer, _encoding, callback) => this.#write(chunk, callback),
      final: (callback) => {
        if (!this.#ended) send({ type: 'stdin-end', id: pid });
        callback();
      },
    });
    this.stdout = this.#output();
    this.stderr = this.#output();
  }

  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    if (this.#ended) return false;
    const number = signalNumber(signal);
    this.#send({ type: 'kill', id: this.pid, signal: number });
    this.killed = true;
    return true;
  }

  abort(reason: unknown): void {
    if (this.kill()) this.emit('error', new Error('The operation was aborted', { cause: reason }));
  }

  ref(): void {}
  unref(): void {}

  receive(message: Exclude<ParentMessage, { type: 'step' }>): void {
    switch (message.type) {
      case 'started':
        this.emit('spawn');
        break;
      case 'failed':
        this.fail(new Error(message.message));
        break;
      case 'output':
        this[message.stream].push(
          message.data === null ? null : Buffer.from(message.data, 'base64'),
        );
        break;
      case 'drained':
        this.#accept();
        break;
      case 'exit':
        this.#finish(message.code, message.signal);
        this.emit('exit', message.code, message.signal);
        this.#closeWhenDone();
        break;
    }
  }

  fail(error: Error): void {
    this.#finish(null, null);
    this.emit('error', error);
    this.stdout.push(null);
    this.stderr.push(null);
  }

  #write(chunk: Buffer, callback: () => void): void {
    // A command that has ended reads no more: its input is dropped.
    if (this.#ended || chunk.length === 0) {
      callback();
      return;
    }
    const part = chunk.subarray(0, CHUNK_BYTES);
    this.#accepted = () => this.#write(chunk.subarray(part.length), callback);
    this.#send({ type: 'stdin', id: this.pid, data: part.toString('base64') });
  }

  #accept(): void {
    const accepted = this.#accepted;
    this.#accepted = undefined;
    accepted?.();
  }

  #finish(code: number | null, signal: NodeJS.Signals | null): void {
    this.#ended = true;
    this.exitCode = code;
    this.signalCode = signal;
    this.#accept();
  }

  #output(): Readable {
    // kiln sends no faster than this process reads; output that a recipe does not read waits here.
    const stream = new Readable({ read: () => undefined });
    stream.once('close', () => {
      this.#open--;
      this.#closeWhenDone();
    });
    return stream;
  }

  #closeWhenDone(): void {
    if (this.#ended && this.#open === 0) {
      this.#open = -1;
      this.emit('close', this.exitCode, this.signalCode);
    }
  }
}

interface RemoteSpawnOptions {
  readonly cwd?: string | URL;
  readonly env?: NodeJS.ProcessEnv;
  readonly shell?: string | boolean;
  readonly signal?: AbortSignal;
}

export class RemoteProcesses {
  /** False while the recipe is loaded: nobody reads kiln's answers yet, so a command would never end. */
  areAnswered = false;
  readonly #running = new Map<number, RemoteProcess>();
  readonly #send: (message: ChildMessage) => void;
  #next = FIRST_ID;

  constructor(send: (message: ChildMessage) => void) {
    this.#send = send;
  }

  spawn(
    where: 'sandbox' | 'host',
    file: string,
    args: readonly string[],
    options: RemoteSpawnOptions,
  ): RemoteProcess {
    const pid = this.#next++;
    const remote = new RemoteProcess(pid, this.#send);
    const words = [file, ...args];
    const shell = options.shell === true ? 'sh' : options.shell || undefined;
    const argv = shell === undefined ? words : [shell, '-c', words.join(' ')];
    const env = Object.entries(options.env ?? {})
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name, String(value)]);
    const { signal } = options;
    const abort = () => remote.abort(signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    this.#running.set(pid, remote);
    remote.once('close', () => {
      this.#running.delete(pid);
      signal?.removeEventListener('abort', abort);
    });
    if (!this.areAnswered) {
      const error = new Error('commands can be run in steps only, not while the recipe is loaded');
      setImmediate(() => remote.fail(error));
      return remote;
    }
    this.#send({
      type: 'spawn',
      id: pid,
      where,
      argv,
      cwd: String(options.cwd ?? ''),
      env: Object.fromEntries(env),
    });
    return remote;
  }

  find(pid: number): RemoteProcess | undefined {
    return this.#running.get(pid);
  }
}
