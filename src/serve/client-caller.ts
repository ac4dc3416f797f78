import { Socket } from 'node:net';
import { Writable } from 'node:stream';
import {
  type Caller,
  type DetachRequest,
  outputOf,
  type PathCaller,
  renaming,
  serviceOf,
  type TextInput,
} from '../cli/caller/caller.ts';
import type { TextOutput } from '../cli/output/print.ts';
import type { CommandLine } from '../daemon/command-line.ts';
import type { Parking } from '../daemon/parked.ts';
import type { DetachedJob } from '../detached/job.ts';
import type { EngineOptions, OwnEngine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import { checked, tryCall } from '../host/calls/system-call.ts';
import { workingDirectoryError } from '../host/calls/system-error.ts';
import { callersOwn } from '../host/process/own-node.ts';
import { callerIds } from '../jobs/run/request.ts';
import { LeaveKeys } from '../options/leave-keys.ts';
import { awaitedLater } from '../promise.ts';
import type { HandedStdio, HostStdio } from '../sandbox/command/process.ts';
import { userEnvironment } from '../users/configuration.ts';

/** The most bytes of text that may wait for the client before the writer must wait. */
const WAITING_MAX = 1 << 20;

const O_CLOEXEC = 0o2000000;
/** ioctl(2) of asm-generic/ioctls.h. struct winsize begins with rows and columns, u16 each. */
const TIOCGWINSZ = 0x5413;
const WINSIZE = 8;

export interface ServingProcess {
  readonly state: string;
  /** The path of root's kiln.yaml. */
  readonly configuration: string;
  readonly isOnly: boolean;
  readonly parking: Parking | undefined;
  openEngine(caller: Caller, options?: EngineOptions): OwnEngine;
  readonly storeChanged: () => void;
  readonly detach?: (options: DetachRequest, caller: Caller) => Promise<DetachedJob>;
  readonly takeRoom?: Caller['takeRoom'];
  interrupted(): void;
}

export class ClientCaller implements Caller {
  readonly env: Caller['env'];
  readonly ids: Caller['ids'];
  readonly user: Caller['user'];
  readonly paths: Caller['paths'];
  readonly configuration: Caller['configuration'];
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  readonly inputIsTTY: boolean;
  readonly isOnly: boolean;
  readonly parking: Parking | undefined;
  readonly detach: Caller['detach'];
  readonly takeRoom: Caller['takeRoom'];
  readonly storeChanged: Caller['storeChanged'];
  exitStatus: number | undefined;
  isOutputAll = false;
  isQuiet = false;
  service: Caller['service'];
  readonly #line: CommandLine;
  readonly #process: ServingProcess;
  #over = false;
  #job: DetachedJob | undefined;
  #leaveBy: string | undefined;
  readonly #listening = new Set<{ readonly signals: readonly NodeJS.Signals[] }>();

  constructor(line: CommandLine, process: ServingProcess, { user, paths }: PathCaller) {
    const { env, terminals, columns, configuration: own } = line.start;
    this.#line = line;
    this.#process = process;
    this.isOnly = process.isOnly;
    this.parking = process.parking;
    this.storeChanged = process.storeChanged;
    this.user = user;
    this.paths = paths;
    this.configuration = { file: process.configuration, own };
    this.takeRoom = user && process.takeRoom;
    const obeyed = user === undefined ? env : userEnvironment(env);
    this.env = { ...obeyed, KILN_STATE: process.state };
    this.service = serviceOf((name) => this.variable(name));
    this.ids = callerIds(env, line.identity);
    this.inputIsTTY = terminals[0];
    const output = (fd: 1 | 2) => {
      // From a job's start on, its id alone is on the client's stdout.
      const stream = clientOutput(line, fd, () => ({
        job: fd === 1 ? this.#job : this.#begun,
        isShown: (fd === 1 ? this.#left : this.#begun) === undefined,
      }));
      const own = outputOf(stream, { isTTY: terminals[fd], columns: columns || 80 }, this);
      const named = renaming(own, paths);
      // A log is no terminal.
      const isTTY = () => terminals[fd] && this.#left === undefined;
      // A window changes its size while a job runs.
      const width = () => (terminals[fd] ? this.windowSize.columns : named.columns);
      return Object.defineProperties(
        { ...named },
        {
          isTTY: { get: isTTY },
          columns: { get: width },
          service: { get: () => this.service },
        },
      );
    };
    this.stdout = output(1);
    this.stderr = output(2);
    line.on('signal', (signal) => this.#unheard(signal));
    line.on('gone', () => {
      if (!this.#over && this.#listening.size === 0) process.interrupted();
    });
    const { detach } = this.#process;
    this.detach =
      detach &&
      (async (options) => {
        const job = await detach(options, this);
        const { id } = job.record;
        this.#job = job;
        this.#leaveBy = options.leaveBy;
        // The client has what it waited for: the name of the job. Its terminal is raw where it has stayed so far.
        job.once('begun', () => {
          if (options.leaveBy === undefined) line.write(1, `${id}\n`);
          else
            line.write(
              2,
              `\r\nkiln: \`kiln attach ${id}\` comes back, \`kiln kill ${id}\` ends it\r\n`,
            );
          this.end({ status: 0 });
        });
        return job;
      });
  }

  /** The job, unless the client stays with it. */
  get #left(): DetachedJob | undefined {
    return this.#leaveBy === undefined ? this.#job : this.#begun;
  }

  get #begun(): DetachedJob | undefined {
    return this.#job?.hasBegun === true ? this.#job : undefined;
  }

  variable(name: string): string | undefined {
    return callersOwn(this.#line.start.env, name);
  }

  get environment(): Caller['environment'] {
    const { env } = this.#line.start;
    return this.user === undefined ? env : userEnvironment(env);
  }

  cwd(): string {
    const { cwd } = this.#line.start;
    if (cwd !== '') return cwd;
    throw workingDirectoryError();
  }

  get windowSize(): Caller['windowSize'] {
    if (this.#begun !== undefined) return this.#begun.windowSize;
    const { rows, columns } = this.#line.windowSize;
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

  async finish(): Promise<void> {
    for (const { stream } of [this.stdout, this.stderr]) {
      if (stream.destroyed) continue;
      await new Promise<void>((resolve) => {
        stream.once('close', resolve);
        stream.end();
      });
    }
    const status = this.exitStatus ?? 0;
    // A job that succeeded before it could be detached is kept, too.
    if (this.#leaveBy === undefined && this.#job?.hasBegun === false && status === 0)
      this.#job.begin();
    await this.#job?.over(status);
    this.end({ status });
  }

  /** The daemon ends, or wants this process to: so does what is being done. */
  abort(): void {
    if (this.#begun === undefined) this.#line.abort();
    else this.#begun.end('lost');
  }

  end(end: Parameters<CommandLine['exit']>[0]): void {
    if (this.#over) return;
    this.#over = true;
    this.#line.exit(end, this.isOutputAll);
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
    const entry = { signals };
    this.#listening.add(entry);
    return {
      [Symbol.dispose]: () => {
        line.off('signal', heard).off('gone', gone);
        job?.off('signal', heard);
        this.#listening.delete(entry);
      },
    };
  }

  #unheard(signal: NodeJS.Signals): void {
    if (this.#over || signal === 'SIGWINCH') return;
    if ([...this.#listening].some(({ signals }) => signals.includes(signal))) return;
    this.end({ signal });
    this.#process.interrupted();
  }

  get handOver(): Caller['handOver'] {
    return this.#job === undefined ? this.#handOver : undefined;
  }

  readonly #handOver = (stdio: HostStdio): HandedStdio => {
    const line = this.#line;
    if ('terminal' in stdio) line.passTerminal(stdio.terminal);
    else line.passStdio(stdio.stdin, stdio.stdout, stdio.stderr);
    return {
      onMoved: (listener) => void line.on('moved', listener),
      end: () => line.endStdio(),
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
    const job = this.#job;
    if (job === undefined) return this.#callersInput(raw);
    if (this.#leaveBy === undefined || job.hasBegun)
      return { stream: job.input, [Symbol.dispose]: () => undefined };
    const input = this.#callersInput(raw);
    const { stream } = input;
    const keys = new LeaveKeys(this.#leaveBy);
    stream.on('data', (bytes: Buffer) => {
      const { typed, hasLeft } = keys.take(bytes);
      if (!job.input.write(typed)) {
        stream.pause();
        job.input.once('drain', () => stream.resume());
      }
      if (!hasLeft) return;
      stream.destroy();
      job.begin();
    });
    return { stream: job.input, [Symbol.dispose]: () => input[Symbol.dispose]() };
  }

  #callersInput(raw: boolean): TextInput {
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
}

function clientOutput(
  line: CommandLine,
  fd: 1 | 2,
  placesOf: () => { readonly job: DetachedJob | undefined; readonly isShown: boolean },
): Writable {
  const write = (chunk: Buffer, _: BufferEncoding, done: (error?: Error) => void) => {
    const { job, isShown } = placesOf();
    job?.write(fd, chunk);
    if (isShown) line.write(fd, chunk);
    if (!isShown || line.waiting < WAITING_MAX) done();
    else line.sent().then(() => done(), done);
  };
  const output = new Writable({ highWaterMark: WAITING_MAX, write });
  // The client reports the error itself.
  output.on('error', () => undefined);
  line.on('unwritable', (which) => {
    if (which !== fd) return;
    output.destroy(Object.assign(new Error('EPIPE: nobody reads this'), { code: 'EPIPE' }));
  });
  return output;
}
