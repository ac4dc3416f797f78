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

/** The descriptor of a worker's connection to its daemon. */
export const DAEMON_FD = 3;

/** The most bytes of a frame between daemon and worker: a start, and some frames after it. */
export const JOB_MAX = FRAME.max + (1 << 20);

/** The exit status of a failure of kiln's own, as podman and docker have it. */
const KILN_FAILED = 125;

export interface WorkersOptions {
  /** The command that starts a worker. */
  readonly command: readonly [string, ...string[]];
  /** A worker's environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Takes a parked sandbox for a worker: its id, and its owner's lock, which then belongs to the worker. */
  readonly takeParked: () => Promise<{ readonly id: string; readonly lock: number } | undefined>;
  /** Called when a worker ended by itself; `how` says how. */
  readonly crashed: (how: string) => void;
}

const SEE_LOG = 'kilnd.log in the state directory may say why';

/** The message about a worker that has ended. */
function ended(how: string): string {
  return `the process that worked for this call ended ${how}, and its sandboxes with it`;
}

/** A worker that does only what it is asked, until it is given back. */
export interface LentWorker {
  /** Asks for results, with descriptors that then belong to the worker. Throws E_WORKER if it dies. */
  ask(request: Buffer, fds: readonly number[]): Promise<Buffer>;
  /** Ends the last request, which is answered then. */
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
  /** The callers' part of its environment. */
  readonly #env: Readonly<Record<string, string>>;
  #ending = false;
  /** `crashed` tells the job's owner that this process has ended. */
  #job:
    | { readonly crashed: (how: string) => void; readonly done: PromiseWithResolvers<boolean> }
    | undefined;
  /** The request to a lent worker. */
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
      // In a session of its own, like the daemon.
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
      // In a later turn, because its last message may still be unread.
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

  /** Passes a client to the worker. Resolves with whether the worker can have another one afterwards. */
  async serve({ connection, payload, rest, descriptors }: ReleasedClient): Promise<boolean> {
    // Kept until the client was told how to end, in case the worker dies.
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
      // This may be the last copy, with whatever the client has sent meanwhile.
      closeStranger(copy);
    }
  }

  /** Passes a call to the worker. Resolves with whether the worker can have another one afterwards. */
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

  /** Resolves when it was given back, with whether it can have a client afterwards. */
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
    // The connection reuses its buffer.
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

  /** Ends it after its work, which ends, too. */
  end(): void {
    this.#ending = true;
    this.#peer.end();
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }
}
