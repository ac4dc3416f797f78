import type { ChildProcess } from 'node:child_process';
import { addAbortListener } from 'node:events';
import { basename } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { KilnError } from '../errors.ts';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { attempt } from '../host/calls/libc.ts';
import { addon, tryCall } from '../host/calls/system-call.ts';
import { OUT_OF_MEMORY, OUT_OF_MEMORY_HINT } from '../host/cgroup/work-group.ts';
import type { ParkedWish, Turn, WantedTurn } from '../host/libvirt/sandbox-host.ts';
import { startProgram } from '../host/process/child-process.ts';
import { unixSocketPair } from '../host/sockets/unix-socket.ts';
import { DISCONNECTED, MSG_DONTWAIT, MSG_NOSIGNAL, Watch } from '../host/sockets/watch.ts';
import { awaitedLater, deferred } from '../promise.ts';
import { type Call, forwardCall } from './call.ts';
import type { ReleasedClient } from './command-line.ts';
import {
  DAEMON_FD,
  encodeFrame,
  FRAME,
  FROM_WORKER,
  JOB_MAX,
  KILN_FAILED,
  readFrame,
  TO_CLIENT,
  TO_WORKER,
  u32s,
} from './frames.ts';
import { Peer } from './peer.ts';
import { closeStranger } from './stranger.ts';

const F_DUPFD_CLOEXEC = 1030;

/** How long a worker may go on with a job whose caller is gone, ms. Its thread may be busy for much longer. */
const GONE_MAX = 10_000;

export interface WorkersOptions {
  readonly command: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
  readonly turns: { take(wanted: WantedTurn): Promise<Turn> };
  readonly crashed: (how: string) => void;
  /** A worker is gone, in whatever way. */
  readonly ended: () => void;
  /** How often the kernel has killed what worked for a user, at the limit of memory. */
  readonly memoryKills: (uid: number) => number;
}

/** Room for one sandbox more of a job's user, until disposed of; undefined if there is none. */
export type TakeRoom = () => Promise<Disposable | undefined>;

interface GiveOptions {
  readonly uid: number;
  readonly takeRoom?: TakeRoom | undefined;
  readonly isLast: boolean;
}

const SEE_LOG = 'kilnd.log in the state folder may say why';

interface Job {
  readonly uid: number;
  readonly crashed: (how: string) => void;
  readonly taken?: () => void;
  readonly takeRoom?: TakeRoom | undefined;
}

export function resultsLostError(how: string): KilnError {
  const message = `the process that was to write the results ended ${how}`;
  return new KilnError('E_WORKER', message, { hint: SEE_LOG });
}

export class Worker {
  readonly #process: ChildProcess;
  readonly #peer: Peer;
  readonly #options: WorkersOptions;
  readonly #env: Readonly<Record<string, string>>;
  #ending = false;
  #job:
    | (Job & {
        readonly done: PromiseWithResolvers<boolean>;
        readonly rooms: Disposable[];
        readonly turns: Disposable[];
        readonly over: AbortController;
        isDetached: boolean;
      })
    | undefined;
  #asked: PromiseWithResolvers<Buffer | undefined> | undefined;
  #hasTaken = false;
  readonly over: Promise<void>;
  /** When it began its job, of performance.now(). */
  begun = Number.NEGATIVE_INFINITY;

  constructor(options: WorkersOptions, env: Readonly<Record<string, string>>) {
    this.#options = options;
    this.#env = env;
    const [ours, theirs] = unixSocketPair();
    const [program, ...args] = options.command;
    const { promise, resolve } = deferred<void>();
    this.over = promise;
    try {
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
    const events = {
      data: (bytes: Buffer) => this.#receive(bytes),
      end: () => undefined,
    };
    this.#peer = new Peer(ours, events, { limit: JOB_MAX, trusted: 'everybody' });
  }

  isFor(env: Readonly<Record<string, string>>): boolean {
    return isDeepStrictEqual(env, this.#env);
  }

  /**
   * Resolves with whether the worker can have another client afterwards; with the client itself where the worker
   * died before it took that, unless it is the client's last try.
   */
  async giveLine(
    { connection, payload, rest, descriptors }: ReleasedClient,
    { uid, takeRoom, isLast }: GiveOptions,
  ): Promise<boolean | ReleasedClient> {
    const whyEnded = this.#watchMemory(uid);
    const fds = [connection, ...descriptors];
    // Kept until the client was told how to end, and the others until they are taken, in case the worker dies.
    const [copy = -1, ...others] = fds.map((fd) =>
      tryCall('fcntl', fd, F_DUPFD_CLOEXEC, DAEMON_FD),
    );
    let isTaken = false;
    const taken = () => {
      isTaken = true;
      for (const fd of others.splice(0)) closeDescriptor(fd);
    };
    const crashed = (how: string) => {
      if (!isTaken && !isLast) return;
      const { message, hint } = whyEnded(how);
      const text = `kiln: ${message} [E_WORKER]\n  hint: ${hint}\n`;
      const frames = [
        encodeFrame(TO_CLIENT.text, Buffer.concat([Buffer.of(2), Buffer.from(text)])),
        encodeFrame(TO_CLIENT.exit, Buffer.concat([Buffer.of(0), u32s(KILN_FAILED)])),
      ];
      addon().sendMessage(copy, Buffer.concat(frames), [], MSG_DONTWAIT | MSG_NOSIGNAL);
    };
    const bytes = Buffer.concat([u32s(payload.length), payload, rest]);
    const frame = encodeFrame(TO_WORKER.job, bytes, fds.length);
    const gone = this.#watchCaller(copy);
    const again = await this.#work(frame, fds, { uid, crashed, taken, takeRoom });
    gone?.stop();
    if (!isTaken && !isLast) return { connection: copy, payload, rest, descriptors: others };
    taken();
    // This may be the last copy, with whatever the client has sent meanwhile.
    closeStranger(copy);
    return again;
  }

  /** As {@link giveLine}; undefined where the worker died before it took the call, unless it is the call's last try. */
  async giveCall(call: Call, isLast: boolean): Promise<boolean | undefined> {
    const [ours, theirs] = unixSocketPair();
    const forwarded = awaitedLater(forwardCall(call, ours));
    const { uid } = call.head.identity;
    const whyEnded = this.#watchMemory(uid);
    let why: ReturnType<typeof whyEnded> | undefined;
    const crashed = (how: string) => {
      why = whyEnded(how);
    };
    let isTaken = false;
    const taken = () => {
      isTaken = true;
    };
    const head = Buffer.from(JSON.stringify(call.head));
    const frame = encodeFrame(TO_WORKER.call, head, 1);
    using _gone = addAbortListener(call.signal, () => this.#endSoon());
    const again = await this.#work(frame, [theirs], { uid, crashed, taken });
    await forwarded;
    if (!isTaken && !isLast) return undefined;
    if (!call.over) {
      const failure = why ?? whyEnded('early');
      call.fail('io.kiln.Failed', { code: 'E_WORKER', ...failure, causes: [] });
    }
    return again;
  }

  /** Undefined where there are no descriptors for that. */
  #watchCaller(connection: number): Watch | undefined {
    return attempt(() => {
      const watch = new Watch(connection, () => {
        watch.stop();
        this.#endSoon();
      });
      watch.events = DISCONNECTED;
      return watch;
    });
  }

  #endSoon(): void {
    const job = this.#job;
    const end = () => {
      if (job !== undefined && this.#job === job && !job.isDetached) this.kill();
    };
    setTimeout(end, GONE_MAX).unref();
  }

  #watchMemory(uid: number): (how: string) => { readonly message: string; readonly hint: string } {
    const kills = () => (uid === 0 ? 0 : this.#options.memoryKills(uid));
    const before = kills();
    return (how) => {
      const what = 'the process that worked for this call ended';
      const isFull = how === 'by SIGKILL' && kills() > before;
      const [why, hint] = isFull ? [`: ${OUT_OF_MEMORY}`, OUT_OF_MEMORY_HINT] : ['', SEE_LOG];
      return { message: `${what} ${how}, and its sandboxes with it${why}`, hint };
    };
  }

  #work(frame: Buffer, fds: readonly number[], job: Job): Promise<boolean> {
    this.#peer.send(frame, fds);
    return this.#begin(job);
  }

  #begin(job: Job): Promise<boolean> {
    const done = deferred<boolean>();
    this.begun = performance.now();
    this.#job = {
      ...job,
      done,
      rooms: [],
      turns: [],
      over: new AbortController(),
      isDetached: false,
    };
    return done.promise;
  }

  lend(): Promise<boolean> {
    return this.#begin({
      uid: 0,
      crashed: (how) => {
        if (this.#hasTaken) this.#asked?.reject(resultsLostError(how));
        else this.#asked?.resolve(undefined);
      },
      taken: () => {
        this.#hasTaken = true;
      },
    });
  }

  /**
   * Of a lent worker, which owns the descriptors then. Undefined where the worker died before it took the request.
   * @throws KilnError E_WORKER if it dies after
   */
  ask(request: Buffer, fds: readonly number[]): Promise<Buffer | undefined> {
    const asked = deferred<Buffer | undefined>();
    this.#asked = asked;
    this.#hasTaken = false;
    this.#peer.send(encodeFrame(TO_WORKER.results, request, fds.length), fds);
    if (this.#peer.ended) asked.resolve(undefined);
    return asked.promise;
  }

  stop(): void {
    this.#peer.send(encodeFrame(TO_WORKER.stop, Buffer.alloc(0)));
  }

  giveBack(): void {
    this.#peer.send(encodeFrame(TO_WORKER.over, Buffer.alloc(0)));
  }

  #receive(bytes: Buffer): number {
    const frame = readFrame(this.#peer, bytes);
    if (frame === undefined) return 0;
    if (frame === 'broken') {
      this.kill();
      return bytes.length;
    }
    for (const fd of frame.fds) closeDescriptor(fd);
    if (frame.type === FROM_WORKER.done) this.#finish(frame.payload[0] === 1);
    else if (frame.type === FROM_WORKER.taken) this.#job?.taken?.();
    else if (frame.type === FROM_WORKER.wantsTurn) this.#giveTurn(frame.payload.toString());
    else if (frame.type === FROM_WORKER.leavesTurn) this.#job?.turns.pop()?.[Symbol.dispose]();
    else if (frame.type === FROM_WORKER.detached) this.#detached();
    else if (frame.type === FROM_WORKER.wantsRoom) this.#giveRoom();
    else if (frame.type === FROM_WORKER.leavesRoom) this.#job?.rooms.pop()?.[Symbol.dispose]();
    // The connection reuses its buffer.
    else if (frame.type === FROM_WORKER.results) this.#asked?.resolve(Buffer.from(frame.payload));
    return FRAME.header + frame.payload.length;
  }

  #giveTurn(words: string): void {
    const job = this.#job;
    if (job === undefined) return;
    const parked = words === '' ? undefined : (JSON.parse(words) as ParkedWish);
    const give = (id: string, locks: readonly number[]) =>
      this.#peer.send(encodeFrame(TO_WORKER.turn, Buffer.from(id), locks.length), locks);
    this.#options.turns.take({ uid: job.uid, parked, signal: job.over.signal }).then(
      (turn) => {
        if (turn.parked !== undefined) {
          give(basename(turn.parked.directory), [turn.parked.lock.descriptor]);
          return;
        }
        // The job may have ended meanwhile.
        if (this.#job !== job) turn[Symbol.dispose]();
        else job.turns.push(turn);
        give('', []);
      },
      () => give('', []),
    );
  }

  #detached(): void {
    if (this.#job !== undefined) this.#job.isDetached = true;
  }

  #giveRoom(): void {
    const job = this.#job;
    const answer = (room?: Disposable) => {
      // The job may have ended meanwhile.
      if (this.#job !== job) room?.[Symbol.dispose]();
      else if (room !== undefined) job?.rooms.push(room);
      this.#peer.send(encodeFrame(TO_WORKER.room, Buffer.of(room === undefined ? 0 : 1)));
    };
    if (job?.takeRoom === undefined) answer();
    else job.takeRoom().then(answer, () => answer());
  }

  #finish(again: boolean): void {
    const job = this.#job;
    if (job === undefined) return;
    this.#job = undefined;
    this.begun = Number.NEGATIVE_INFINITY;
    for (const one of [...job.rooms, ...job.turns]) one[Symbol.dispose]();
    job.over.abort();
    job.done.resolve(again);
  }

  #crashed(how: string): void {
    this.#options.crashed(how);
    const job = this.#job;
    if (job === undefined) return;
    job.crashed(how);
    this.#finish(false);
  }

  end(): void {
    this.#ending = true;
    this.#peer.end();
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }
}
