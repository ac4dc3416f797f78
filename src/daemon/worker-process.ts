/** One worker process, as its daemon sees it. */
import type { ChildProcess } from 'node:child_process';
import { isDeepStrictEqual } from 'node:util';
import { KilnError } from '../errors.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { addon, tryCall } from '../host/calls/system-call.ts';
import { startProgram } from '../host/process/child-process.ts';
import { unixSocketPair } from '../host/sockets/unix-socket.ts';
import { awaitedLater, deferred } from '../promise.ts';
import type { Call } from './call.ts';
import type { ReleasedClient } from './command-line.ts';
import { readFrame } from './command-line.ts';
import { forwardCall } from './forward-call.ts';
import { encodeFrame, FRAME, FROM_WORKER, TO_CLIENT, TO_WORKER, u32s } from './frames.ts';
import { Peer } from './peer.ts';
import { closeStranger } from './stranger.ts';

const F_DUPFD_CLOEXEC = 1030;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;

/** The descriptor on which a worker has its daemon. */
export const DAEMON_FD = 3;

/** Of frames between daemon and worker: a start, and some frames that came after it. Bytes. */
export const JOB_MAX = FRAME.max + (1 << 20);

/** The exit status of a failure of kiln's own, as podman and docker have it. */
const KILN_FAILED = 125;

export interface WorkersOptions {
  /** The command that starts a worker. */
  readonly command: readonly [string, ...string[]];
  /** A worker's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** A parked sandbox for a worker: its id and the lock of its owner, which is the worker's then. */
  readonly takeParked: () => Promise<{ readonly id: string; readonly lock: number } | undefined>;
  /** A worker has ended although nobody told it to: `how` says by what. */
  readonly crashed: (how: string) => void;
}

const SEE_LOG = 'kilnd.log in the state directory may say why';

/** What is said for a worker that has ended. */
function ended(how: string): string {
  return `the process that worked for this call ended ${how}, and its sandboxes with it`;
}

/** A worker that does nothing but what it is asked until it is given back. */
export interface LentWorker {
  /** Asks for results, with descriptors that are the worker's then. Throws E_WORKER where it dies. */
  ask(request: Buffer, fds: readonly number[]): Promise<Buffer>;
  /** Ends what it was asked for last, which is answered then. */
  stop(): void;
  giveBack(): void;
}

export function resultsLost(how: string): KilnError {
  const message = `the process that was to write the results ended ${how}`;
  return new KilnError('E_WORKER', message, { hint: SEE_LOG });
}

export class Worker implements LentWorker {
  readonly #process: ChildProcess;
  readonly #peer: Peer;
  readonly #options: WorkersOptions;
  /** What its environment has of its callers'. */
  readonly #env: Readonly<Record<string, string>>;
  #ending = false;
  /** `crashed` tells whoever the job is for that this process has ended. */
  #job:
    | { readonly crashed: (how: string) => void; readonly done: PromiseWithResolvers<boolean> }
    | undefined;
  /** Of a lent one, what it was asked. */
  #asked: PromiseWithResolvers<Buffer> | undefined;
  /** Resolves when the process has ended. */
  readonly over: Promise<void>;

  constructor(options: WorkersOptions, env: Readonly<Record<string, string>>) {
    this.#options = options;
    this.#env = env;
    const [ours, theirs] = unixSocketPair();
    const [program, ...args] = options.command;
    const { promise, resolve } = deferred<void>();
    this.over = promise;
    try {
      // In a session of its own, as the daemon is.
      this.#process = startProgram(program, args, {
        cwd: '/',
        env: { ...options.env, ...env },
        detached: true,
        stdio: ['ignore', 'ignore', 'inherit', theirs],
      });
    } catch (error) {
      closeDescriptor(ours);
      throw error;
    } finally {
      closeDescriptor(theirs);
    }
    const exited = (how: string) => {
      // In a later turn: what it said last may still be there to be read.
      setImmediate(() => {
        this.#peer.destroy();
        if (!this.#ending || this.#job !== undefined) this.#crashed(how);
        resolve();
      });
    };
    this.#process.once('error', (error) => exited(error.message));
    this.#process.once('exit', (code, signal) =>
      exited(signal === null ? `with status ${code}` : `by ${signal}`),
    );
    const peer: Peer = new Peer(
      ours,
      {
        data: (bytes) => this.#receive(peer, bytes),
        end: () => undefined,
      },
      { limit: JOB_MAX, trusted: 'everybody' },
    );
    this.#peer = peer;
  }

  isFor(env: Readonly<Record<string, string>>): boolean {
    return isDeepStrictEqual(env, this.#env);
  }

  /** Hands a client over; whether the worker can have another one afterwards. */
  async serve({ connection, payload, rest, descriptors }: ReleasedClient): Promise<boolean> {
    // Ours until the client has been told how to end, in case the worker dies.
    const copy = tryCall('fcntl', connection, F_DUPFD_CLOEXEC, DAEMON_FD);
    const crashed = (how: string) => {
      const text = `kiln: ${ended(how)}\n  hint: ${SEE_LOG}\n`;
      const frames = [
        encodeFrame(TO_CLIENT.text, Buffer.concat([Buffer.of(2), Buffer.from(text)])),
        encodeFrame(TO_CLIENT.exit, Buffer.concat([Buffer.of(0), u32s(KILN_FAILED)])),
      ];
      addon().sendMessage(copy, Buffer.concat(frames), [], MSG_DONTWAIT | MSG_NOSIGNAL);
    };
    const fds = [connection, ...descriptors];
    const bytes = Buffer.concat([u32s(payload.length), payload, rest]);
    try {
      return await this.#work(encodeFrame(TO_WORKER.job, bytes, fds.length), fds, crashed);
    } finally {
      // Maybe the last one, with whatever the client has sent meanwhile.
      closeStranger(copy);
    }
  }

  /** Hands a call over; whether the worker can have another one afterwards. */
  async call(call: Call): Promise<boolean> {
    const [ours, theirs] = unixSocketPair();
    const forwarded = awaitedLater(forwardCall(call, ours));
    let how: string | undefined;
    const crashed = (by: string) => {
      how = by;
    };
    const head = Buffer.from(JSON.stringify(call.head));
    const again = await this.#work(encodeFrame(TO_WORKER.call, head, 1), [theirs], crashed);
    await forwarded;
    if (!call.over) {
      const failure = { code: 'E_WORKER', message: ended(how ?? 'early'), hint: SEE_LOG };
      call.fail('io.kiln.Failed', { ...failure, causes: [] });
    }
    return again;
  }

  #work(frame: Buffer, fds: readonly number[], crashed: (how: string) => void): Promise<boolean> {
    const done = deferred<boolean>();
    this.#job = { crashed, done };
    this.#peer.send(frame, fds);
    return done.promise;
  }

  /** Resolves when it has been given back; whether it can have a client afterwards. */
  lend(): Promise<boolean> {
    const done = deferred<boolean>();
    this.#job = { crashed: (how) => this.#asked?.reject(resultsLost(how)), done };
    return done.promise;
  }

  ask(request: Buffer, fds: readonly number[]): Promise<Buffer> {
    const asked = deferred<Buffer>();
    this.#asked = asked;
    this.#peer.send(encodeFrame(TO_WORKER.results, request, fds.length), fds);
    if (this.#peer.ended) asked.reject(resultsLost('before it was asked'));
    return asked.promise;
  }

  stop(): void {
    this.#peer.send(encodeFrame(TO_WORKER.stop, Buffer.alloc(0)));
  }

  giveBack(): void {
    this.#peer.send(encodeFrame(TO_WORKER.over, Buffer.alloc(0)));
  }

  #receive(peer: Peer, bytes: Buffer): number {
    const frame = readFrame(peer, bytes);
    if (frame === undefined) return 0;
    if (frame === 'broken') {
      this.kill();
      return bytes.length;
    }
    for (const fd of frame.fds) closeDescriptor(fd);
    if (frame.type === FROM_WORKER.done) this.#finish(frame.payload[0] === 1);
    else if (frame.type === FROM_WORKER.wantsParked) this.#giveParked();
    // The bytes of a connection are used again.
    else if (frame.type === FROM_WORKER.results) this.#asked?.resolve(Buffer.from(frame.payload));
    return FRAME.header + frame.payload.length;
  }

  #giveParked(): void {
    const none = encodeFrame(TO_WORKER.parked, Buffer.alloc(0));
    this.#options.takeParked().then(
      (parked) => {
        if (parked === undefined) this.#peer.send(none);
        else
          this.#peer.send(encodeFrame(TO_WORKER.parked, Buffer.from(parked.id), 1), [parked.lock]);
      },
      () => this.#peer.send(none),
    );
  }

  #finish(again: boolean): void {
    const job = this.#job;
    if (job === undefined) return;
    this.#job = undefined;
    job.done.resolve(again);
  }

  #crashed(how: string): void {
    this.#options.crashed(how);
    const job = this.#job;
    if (job === undefined) return;
    job.crashed(how);
    this.#finish(false);
  }

  /** Has it end when it has done what it does; what it does ends, too. */
  end(): void {
    this.#ending = true;
    this.#peer.end();
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }
}
