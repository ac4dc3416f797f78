/** A worker's connection to kilnd, which gives it one client at a time. workers.ts is the other end. */

import { addAbortListener, EventEmitter } from 'node:events';
import { closeDescriptor } from '../host/calls/descriptor.ts';
import type { ParkedWish } from '../host/libvirt/sandbox-host.ts';
import { deferred } from '../promise.ts';
import { Call, type CallHead, CONTROLLED, type Control, firstMessage } from './call.ts';
import { CommandLine } from './command-line.ts';
import {
  DAEMON_FD,
  encodeFrame,
  FRAME,
  FROM_WORKER,
  JOB_MAX,
  readFrame,
  TO_WORKER,
} from './frames.ts';
import { Peer } from './peer.ts';

const WORK: readonly number[] = [TO_WORKER.job, TO_WORKER.call, TO_WORKER.results];

interface GivenSandbox {
  readonly id: string;
  readonly lock: number;
}

/** See {@link Turn}. */
export interface GivenTurn extends Disposable {
  readonly parked: GivenSandbox | undefined;
}

interface DaemonEvents {
  /** One of the next three. */
  work: [];
  job: [line: CommandLine];
  call: [call: AdoptedCall];
  results: [payload: Buffer, fds: readonly number[]];
  /** What `results` asked for is not wanted any more. */
  stop: [];
  /** Nobody asks for more results of the same run. */
  over: [];
  gone: [];
}

export interface AdoptedCall {
  readonly call: Call;
  close(): Promise<void>;
}

export class DaemonConnection extends EventEmitter<DaemonEvents> {
  readonly #peer: Peer;
  readonly #wanted: { readonly resolve: (given?: GivenSandbox) => void; isOver: boolean }[] = [];
  #rooms: PromiseWithResolvers<boolean>[] = [];

  constructor() {
    super();
    const peer: Peer = new Peer(
      DAEMON_FD,
      {
        data: (bytes) => {
          const frame = readFrame(peer, bytes, JOB_MAX);
          if (frame === undefined) return 0;
          if (frame === 'broken') {
            this.emit('gone');
            return bytes.length;
          }
          const { type, payload, fds } = frame;
          if (WORK.includes(type)) {
            peer.send(encodeFrame(FROM_WORKER.taken, Buffer.alloc(0)));
            this.emit('work');
          }
          if (type === TO_WORKER.job) this.emit('job', readJob(payload, fds));
          else if (type === TO_WORKER.call) this.emit('call', readCall(payload, fds));
          else if (type === TO_WORKER.results) this.emit('results', payload, fds);
          else if (type === TO_WORKER.stop) this.emit('stop');
          else if (type === TO_WORKER.over) this.emit('over');
          else if (type === TO_WORKER.room) this.#rooms.shift()?.resolve(payload[0] === 1);
          else this.#give(payload.toString(), fds);
          return FRAME.header + payload.length;
        },
        end: () => {
          for (const { resolve } of this.#wanted.splice(0)) resolve();
          for (const { resolve } of this.#rooms.splice(0)) resolve(false);
          this.emit('gone');
        },
      },
      { limit: FRAME.header + JOB_MAX, trusted: 'everybody' },
    );
    this.#peer = peer;
  }

  answer(payload: Buffer): void {
    this.#peer.send(encodeFrame(FROM_WORKER.results, payload));
  }

  /** The job goes on without its client. */
  detached(): void {
    this.#peer.send(encodeFrame(FROM_WORKER.detached, Buffer.alloc(0)));
  }

  /** The client was told how to end, or a run is over; with `again` this process takes another job. */
  done(again: boolean): void {
    this.#peer.send(encodeFrame(FROM_WORKER.done, Buffer.of(again ? 1 : 0)));
  }

  /** @throws the reason of an abort */
  async takeTurn(
    wish: ParkedWish | undefined,
    signal: AbortSignal | undefined,
  ): Promise<GivenTurn> {
    const { promise, resolve, reject } = deferred<GivenSandbox | undefined>();
    const wanted = { resolve, isOver: false };
    using _abort =
      signal &&
      addAbortListener(signal, () => {
        wanted.isOver = true;
        reject(signal.reason);
      });
    if (this.#peer.ended) resolve(undefined);
    else {
      this.#wanted.push(wanted);
      const words = wish === undefined ? '' : JSON.stringify(wish);
      this.#peer.send(encodeFrame(FROM_WORKER.wantsTurn, Buffer.from(words)));
    }
    const parked = await promise;
    return { parked, [Symbol.dispose]: () => parked ?? this.#leaveTurn() };
  }

  #leaveTurn(): void {
    this.#peer.send(encodeFrame(FROM_WORKER.leavesTurn, Buffer.alloc(0)));
  }

  /** Undefined where the user of this job has no room for a further sandbox now. The room ends with the job. */
  async takeRoom(): Promise<Disposable | undefined> {
    if (this.#peer.ended) return undefined;
    const given = deferred<boolean>();
    this.#rooms.push(given);
    this.#peer.send(encodeFrame(FROM_WORKER.wantsRoom, Buffer.alloc(0)));
    if (!(await given.promise)) return undefined;
    const leave = () => this.#peer.send(encodeFrame(FROM_WORKER.leavesRoom, Buffer.alloc(0)));
    return { [Symbol.dispose]: leave };
  }

  #give(id: string, fds: readonly number[]): void {
    const [lock] = fds;
    const wanted = this.#wanted.shift();
    if (wanted?.isOver === false) {
      wanted.resolve(lock === undefined ? undefined : { id, lock });
      return;
    }
    for (const fd of fds) closeDescriptor(fd);
    if (lock === undefined) this.#leaveTurn();
  }
}

function readJob(
  payload: Buffer,
  [connection = -1, ...descriptors]: readonly number[],
): CommandLine {
  const end = 4 + payload.readUInt32LE(0);
  const rest = Buffer.from(payload.subarray(end));
  return CommandLine.adopt(connection, payload.subarray(4, end), descriptors, rest);
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
