/** The worker's side of workers.ts: a process that serves one client at a time for its daemon. */
import { closeDescriptor } from '../host/calls/descriptor.ts';
import { deferred } from '../promise.ts';
import { Call, type CallHead, type Control } from './call.ts';
import { CommandLine, readFrame } from './command-line.ts';
import { CONTROLLED } from './forward-call.ts';
import { encodeFrame, FRAME, FROM_WORKER, TO_WORKER } from './frames.ts';
import { Peer } from './peer.ts';
import { firstMessage } from './varlink.ts';
import { DAEMON_FD, JOB_MAX } from './worker-process.ts';

/** A parked sandbox from the daemon. */
export interface GivenSandbox {
  readonly id: string;
  /** Descriptor of its owner's lock, held. */
  readonly lock: number;
}

/** What a worker does for its daemon. */
export interface DaemonListener {
  readonly job: (line: CommandLine) => void;
  readonly call: (call: AdoptedCall) => void;
  /** Handles a request for results of the sandbox with this root: see ResultsServer. */
  readonly results: (payload: Buffer, root: number | undefined) => void;
  /** Ends what `results` began. */
  readonly stop: () => void;
  /** No more results of this run will come. */
  readonly over: () => void;
  /** The daemon has ended, or ends this worker. */
  readonly gone: () => void;
}

/** A call whose replies the daemon passes on. */
export interface AdoptedCall {
  readonly call: Call;
  /** Resolves when the daemon has all replies; none can follow. */
  close(): Promise<void>;
}

/** The daemon, as its worker sees it. */
export class Daemon {
  readonly #peer: Peer;
  #wanted: PromiseWithResolvers<GivenSandbox | undefined>[] = [];

  constructor(listener: DaemonListener) {
    const { job, call, results, stop, over, gone } = listener;
    const peer: Peer = new Peer(
      DAEMON_FD,
      {
        data: (bytes) => {
          const frame = readFrame(peer, bytes, JOB_MAX);
          if (frame === undefined) return 0;
          if (frame === 'broken') {
            gone();
            return bytes.length;
          }
          const { type, payload, fds } = frame;
          if (type === TO_WORKER.job) job(readJob(payload, fds));
          else if (type === TO_WORKER.call) call(readCall(payload, fds));
          else if (type === TO_WORKER.results) results(payload, fds[0]);
          else if (type === TO_WORKER.stop) stop();
          else if (type === TO_WORKER.over) over();
          else this.#give(payload.toString(), fds);
          return FRAME.header + payload.length;
        },
        end: () => {
          for (const { resolve } of this.#wanted.splice(0)) resolve(undefined);
          gone();
        },
      },
      { limit: FRAME.header + JOB_MAX, trusted: 'everybody' },
    );
    this.#peer = peer;
  }

  /** Answers a request for results. */
  answer(payload: Buffer): void {
    this.#peer.send(encodeFrame(FROM_WORKER.results, payload));
  }

  /**
   * Reports that the client was told how to end, or that a run is over; with `again` this process takes another
   * job.
   */
  done(again: boolean): void {
    this.#peer.send(encodeFrame(FROM_WORKER.done, Buffer.of(again ? 1 : 0)));
  }

  /** Asks for a parked sandbox. */
  takeParked(): Promise<GivenSandbox | undefined> {
    if (this.#peer.ended) return Promise.resolve(undefined);
    const wanted = deferred<GivenSandbox | undefined>();
    this.#wanted.push(wanted);
    this.#peer.send(encodeFrame(FROM_WORKER.wantsParked, Buffer.alloc(0)));
    return wanted.promise;
  }

  #give(id: string, fds: readonly number[]): void {
    const [lock] = fds;
    const wanted = this.#wanted.shift();
    if (wanted === undefined) for (const fd of fds) closeDescriptor(fd);
    else wanted.resolve(lock === undefined ? undefined : { id, lock });
  }
}

function readJob(
  payload: Buffer,
  [connection = -1, ...descriptors]: readonly number[],
): CommandLine {
  const length = payload.readUInt32LE(0);
  const rest = payload.subarray(4 + length);
  return CommandLine.adopt(
    connection,
    payload.subarray(4, 4 + length),
    descriptors,
    Buffer.from(rest),
  );
}

function readCall(payload: Buffer, [connection = -1]: readonly number[]): AdoptedCall {
  const peer: Peer = new Peer(
    connection,
    {
      data: (bytes) => {
        const message = firstMessage(bytes);
        if (message === undefined) return 0;
        const answer = (done: boolean) => peer.send(Buffer.from(`${CONTROLLED}${done}}\0`));
        call.control(JSON.parse(message.toString()) as Control).then(
          () => answer(true),
          () => answer(false),
        );
        return message.length + 1;
      },
      end: () => call.gone(),
    },
    { trusted: 'everybody' },
  );
  const call = new Call(peer, JSON.parse(payload.toString()) as CallHead);
  return {
    call,
    close: async () => {
      await peer.sent();
      peer.destroy();
    },
  };
}
