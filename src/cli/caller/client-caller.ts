/** A caller at the other end of a connection. */
import { Socket } from 'node:net';
import { Writable } from 'node:stream';
import type { CommandLine } from '../../daemon/command-line.ts';
import type { DetachedJob } from '../../detached/job.ts';
import type { EngineOptions, OwnEngine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { checked, tryCall } from '../../host/calls/system-call.ts';
import { workingDirectoryGone } from '../../host/calls/system-error.ts';
import { awaitedLater } from '../../promise.ts';
import type { HandedStdio, HostStdio } from '../../sandbox/command/streams.ts';
import type { CallerFiles } from '../../users/caller-files.ts';
import { userEnvironment } from '../../users/user.ts';
import {
  type Caller,
  type DetachRequest,
  outputOf,
  type Parking,
  type TextInput,
  type TextOutput,
} from './caller.ts';

/** The most bytes of text that may wait for the client before the writer must wait. */
const WAITING_MAX = 1 << 20;

const O_CLOEXEC = 0o2000000;
/** ioctl(2) of asm-generic/ioctls.h. struct winsize begins with rows and columns, u16 each. */
const TIOCGWINSZ = 0x5413;
const WINSIZE = 8;

/** The process that runs the caller's command line. */
export interface ServingProcess {
  /** The state directory, absolute. */
  readonly state: string;
  /** True if it does nothing else meanwhile. */
  readonly isOnly: boolean;
  readonly parking: Parking | undefined;
  openEngine(caller: Caller, options?: EngineOptions): OwnEngine;
  storeChanged(): void;
  /** Makes a job of the client's that goes on without it; where this process does nothing else. */
  readonly detach?: (options: DetachRequest, caller: Caller) => Promise<DetachedJob>;
  /** The client was told to end by a signal without a listener. */
  interrupted(): void;
}

/** How a client is told to end. */
export type ClientEnd = { readonly status: number } | { readonly signal: NodeJS.Signals };

export class ClientCaller implements Caller {
  readonly env: Caller['env'];
  readonly ids: Caller['ids'];
  readonly user: Caller['user'];
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  readonly inputIsTTY: boolean;
  readonly isOnly: boolean;
  readonly parking: Parking | undefined;
  readonly detach: Caller['detach'];
  exitStatus: number | undefined;
  readonly #line: CommandLine;
  readonly #process: ServingProcess;
  #over = false;
  /** What goes on without the client, or is to. */
  #job: DetachedJob | undefined;
  /** The number of listeners of each signal. */
  readonly #heard = new Map<NodeJS.Signals, number>();

  constructor(line: CommandLine, process: ServingProcess, user: Caller['user']) {
    const { env, terminals, columns } = line.start;
    this.#line = line;
    this.#process = process;
    this.isOnly = process.isOnly;
    this.parking = process.parking;
    this.user = user;
    const obeyed = user === undefined ? env : userEnvironment(env);
    this.env = { ...obeyed, KILN_STATE: process.state };
    this.ids = callerIds(env, line.identity);
    this.inputIsTTY = terminals[0];
    const output = (fd: 1 | 2) => {
      const stream = new ClientOutput(line, fd, () => this.#jobOf(fd));
      const own = outputOf(stream, { isTTY: terminals[fd], columns: columns || 80 });
      const named = user?.files === undefined ? own : renaming(own, user.files);
      // A log is no terminal.
      const isTTY = () => terminals[fd] && this.#job === undefined;
      return Object.defineProperty({ ...named }, 'isTTY', { get: isTTY });
    };
    this.stdout = output(1);
    this.stderr = output(2);
    line.on('signal', (signal) => this.#unheard(signal));
    line.on('gone', () => {
      if (!this.#over && this.#heard.size === 0) process.interrupted();
    });
    const detach = process.detach?.bind(process);
    this.detach =
      detach &&
      (async (options) => {
        const job = await detach(options, this);
        this.#job = job;
        job.once('begun', () => this.#leave(job));
        return job;
      });
  }

  /** Where an output goes that is not the client's: from a job's start, whose id alone is on its stdout. */
  #jobOf(fd: 1 | 2): DetachedJob | undefined {
    return fd === 1 ? this.#job : this.#begun;
  }

  get #begun(): DetachedJob | undefined {
    return this.#job?.hasBegun === true ? this.#job : undefined;
  }

  /** The client has what it waited for: the name of the job. */
  #leave(job: DetachedJob): void {
    this.#line.write(1, `${job.record.id}\n`);
    this.end({ status: 0 });
  }

  variable(name: string): string | undefined {
    return this.#line.start.env[name];
  }

  get environment(): Caller['environment'] {
    const { env } = this.#line.start;
    return this.user === undefined ? env : userEnvironment(env);
  }

  cwd(): string {
    const { cwd } = this.#line.start;
    if (cwd !== '') return cwd;
    throw workingDirectoryGone();
  }

  /** The current size of its terminal, or the one at the start. */
  get windowSize(): Caller['windowSize'] {
    if (this.#begun !== undefined) return this.#begun.windowSize;
    const { rows, columns } = this.#line.start;
    const { stdin, stdout, stderr } = this.#line.descriptors;
    const size = Buffer.alloc(WINSIZE);
    for (const fd of [stdin, stdout, stderr]) {
      if (fd === undefined) continue;
      if (tryCall('ioctl', fd, TIOCGWINSZ, size) === 0 && size.readUInt16LE(0) > 0) {
        return { rows: size.readUInt16LE(0), columns: size.readUInt16LE(2) };
      }
    }
    return { rows: rows || 24, columns: columns || 80 };
  }

  /** Sends the rest of the output, then how to end. */
  async finish(): Promise<void> {
    for (const { stream } of [this.stdout, this.stderr]) {
      if (stream.destroyed) continue;
      await new Promise<void>((resolve) => {
        stream.once('close', resolve);
        stream.end();
      });
    }
    const status = this.exitStatus ?? 0;
    // What was done before its caller could be left is there to be looked at as well.
    if (this.#job?.hasBegun === false && status === 0) this.#job.begin();
    await this.#job?.over(status);
    this.end({ status });
  }

  /** The daemon ends, or wants this process to: so does what is being done. */
  abort(): void {
    if (this.#begun === undefined) this.#line.abort();
    else this.#begun.end('lost');
  }

  end(end: ClientEnd): void {
    if (this.#over) return;
    this.#over = true;
    this.#line.exit(end);
  }

  onSignal(
    signals: readonly NodeJS.Signals[],
    listener: (signal: NodeJS.Signals) => void,
  ): Disposable {
    const line = this.#line;
    const heard = (signal: NodeJS.Signals) => {
      if (signals.includes(signal)) listener(signal);
    };
    // When a client is gone, its requests end as if it had been interrupted twice.
    const gone = () => {
      if (!signals.includes('SIGTERM') || this.#begun !== undefined) return;
      listener('SIGTERM');
      listener('SIGTERM');
    };
    line.on('signal', heard).on('gone', gone);
    const job = this.#job?.on('signal', heard);
    if (line.gone) setImmediate(gone);
    this.#count(signals, 1);
    let over = false;
    return {
      [Symbol.dispose]: () => {
        if (over) return;
        over = true;
        line.off('signal', heard).off('gone', gone);
        job?.off('signal', heard);
        this.#count(signals, -1);
      },
    };
  }

  #count(signals: readonly NodeJS.Signals[], more: number): void {
    for (const signal of signals) {
      const count = (this.#heard.get(signal) ?? 0) + more;
      if (count > 0) this.#heard.set(signal, count);
      else this.#heard.delete(signal);
    }
  }

  /** The effect of a signal without a listener, as for any process. */
  #unheard(signal: NodeJS.Signals): void {
    if (this.#over || signal === 'SIGWINCH' || this.#heard.has(signal)) return;
    this.end({ signal });
    this.#process.interrupted();
  }

  /** Of a job that is to go on nothing is the client's. */
  get handOver(): Caller['handOver'] {
    return this.#job === undefined ? this.#handOver : undefined;
  }

  readonly #handOver = (stdio: HostStdio): HandedStdio => {
    const line = this.#line;
    if ('terminal' in stdio) line.passTerminal(stdio.terminal);
    else line.passStdio(stdio.stdin, stdio.stdout, stdio.stderr);
    return {
      onMoved: (listener) => void line.on('moved', listener),
      drained: awaitedLater(
        new Promise((resolve, reject) => {
          // A client that is gone has closed its ends.
          line.once('gone', resolve);
          if (line.gone) resolve(undefined);
          line.once('drained', (errno) => {
            if (errno === undefined) resolve();
            else reject(new KilnError('E_SYSCALL', `write: ${errno}`));
          });
        }),
      ),
    };
  };

  readInput({ raw }: { readonly raw: boolean }): TextInput {
    if (this.#job !== undefined) {
      return { stream: this.#job.input, [Symbol.dispose]: () => undefined };
    }
    const ends = new Int32Array(2);
    checked('pipe2', tryCall('pipe2', ends, O_CLOEXEC));
    const [from = -1, to = -1] = ends;
    this.#line.passInput(to, raw);
    const stream = new Socket({ fd: from, readable: true, writable: false });
    return { stream, [Symbol.dispose]: () => void stream.destroy() };
  }

  openEngine(options?: EngineOptions): OwnEngine {
    return this.#process.openEngine(this, options);
  }

  storeChanged(): void {
    this.#process.storeChanged();
  }
}

/** Replaces the names of copied files by the caller's own names in text. */
function renaming(output: TextOutput, files: CallerFiles): TextOutput {
  return {
    ...output,
    write: (text) => output.write(typeof text === 'string' ? files.rename(text) : text),
    say: (text) => output.say(files.rename(text)),
  };
}

/** Text frames, sent as fast as the client takes them. */
class ClientOutput extends Writable {
  readonly #line: CommandLine;
  readonly #fd: 1 | 2;
  readonly #job: () => DetachedJob | undefined;

  /** @param job whose output it is, where it is not the client's */
  constructor(line: CommandLine, fd: 1 | 2, job: () => DetachedJob | undefined) {
    super({ highWaterMark: WAITING_MAX });
    this.#line = line;
    this.#fd = fd;
    this.#job = job;
    // The client reports the error itself.
    this.on('error', () => undefined);
    line.on('unwritable', (which) => {
      if (which === fd) {
        this.destroy(Object.assign(new Error('EPIPE: nobody reads this'), { code: 'EPIPE' }));
      }
    });
  }

  override _write(chunk: Buffer, _: BufferEncoding, done: (error?: Error) => void): void {
    const job = this.#job();
    if (job !== undefined) {
      job.write(this.#fd, chunk);
      done();
      return;
    }
    this.#line.write(this.#fd, chunk);
    if (this.#line.waiting < WAITING_MAX) done();
    else this.#line.sent().then(() => done(), done);
  }
}

/** The ids of sudo's caller, if root calls for somebody. */
function callerIds(
  env: Caller['env'],
  identity: { readonly uid: number; readonly gid: number },
): Caller['ids'] {
  const [uid, gid] = [Number(env.SUDO_UID), Number(env.SUDO_GID)];
  if (identity.uid === 0 && uid > 0 && gid > 0) return { uid, gid };
  return { uid: identity.uid, gid: identity.gid };
}
