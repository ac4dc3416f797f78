/** The other side of workers.ts: a process that serves one client at a time for its daemon. */
import { closeDescriptor } from '../kernel/descriptor.ts';
import { deferred } from '../promise.ts';
import { CommandLine, readFrame } from './command-line.ts';
import { encodeFrame, FRAME, FROM_WORKER, TO_WORKER } from './frames.ts';
import { Peer } from './peer.ts';
import { DAEMON_FD, JOB_MAX } from './workers.ts';

/** A parked sandbox that was the daemon's. */
export interface GivenSandbox {
  readonly id: string;
  /** Descriptor of its owner's lock, held. */
  readonly lock: number;
}

/** The daemon of this worker. */
export class Daemon {
  readonly #peer: Peer;
  #wanted: PromiseWithResolvers<GivenSandbox | undefined>[] = [];

  /** @param job is given each client; `gone` is called when the daemon has ended, or ends this worker */
  constructor(job: (line: CommandLine) => void, gone: () => void) {
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
          else this.#give(payload.toString(), fds);
          return FRAME.header + payload.length;
        },
        end: () => {
          for (const { resolve } of this.#wanted.splice(0)) resolve(undefined);
          gone();
        },
      },
      FRAME.header + JOB_MAX,
    );
    this.#peer = peer;
  }

  /** The client has been told how to end; with `again` this process takes another one. */
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
