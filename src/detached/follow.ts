import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../errors.ts';
import { connectFrames } from '../host/sockets/frame-server.ts';
import { encodeFrame, FRAME, onFrames, sendMessage } from '../host/sockets/frames.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { deferred } from '../promise.ts';
import type { JobControl, JobMessage } from './job.ts';
import { jobFiles, type ListedJob, listJobs, titleOf } from './record.ts';

/** How long a job's end may take to be on the disk once its process has let go, milliseconds. */
const LAST_WORDS = 2000;

export interface FollowedOutput {
  /** The log has the first `logged` bytes of the output; the rest comes to `output`. */
  readonly follows: (logged: number) => void;
  readonly output: (output: 1 | 2, bytes: Buffer) => void;
  readonly omitted: (bytes: number) => void;
}

export class Follower implements Disposable {
  readonly #socket: Socket;
  readonly #over = deferred<number | undefined>();
  readonly over = this.#over.promise;

  private constructor(socket: Socket, output: FollowedOutput | undefined) {
    this.#socket = socket;
    socket.on('error', () => socket.destroy());
    socket.once('close', () => this.#over.resolve(undefined));
    onFrames(socket, ({ kind, body }) => {
      if (kind === FRAME.data) output?.output(1, body);
      else if (kind === FRAME.errorData) output?.output(2, body);
      else if (kind === FRAME.message) {
        const message = JSON.parse(body.toString()) as JobMessage;
        if ('follows' in message) output?.follows(message.follows);
        else if ('omitted' in message) output?.omitted(message.omitted);
        else this.#over.resolve(message.ended);
      }
    });
  }

  static async open(
    paths: StatePaths,
    id: string,
    output?: FollowedOutput,
  ): Promise<Follower | undefined> {
    const socket = await connectFrames(jobFiles.socket(paths, id));
    if (socket === undefined) return undefined;
    const follower = new Follower(socket, output);
    if (output !== undefined) follower.control({ do: 'follow' });
    return follower;
  }

  control(wanted: JobControl): void {
    sendMessage(this.#socket, wanted, FRAME.control);
  }

  type(bytes: Buffer): void {
    this.#socket.write(encodeFrame(FRAME.data, bytes));
  }

  set paused(paused: boolean) {
    if (paused) this.#socket.pause();
    else this.#socket.resume();
  }

  [Symbol.dispose](): void {
    this.#socket.destroy();
  }
}

/** How a job ended that a follower has lost sight of. @throws KilnError E_JOB_LOST, E_NO_JOB */
export async function endOf(paths: StatePaths, { record }: ListedJob): Promise<number> {
  for (const began = Date.now(); ; await sleep(50)) {
    const now = (await listJobs(paths, undefined)).find((job) => job.record.id === record.id);
    if (now?.record.ended !== undefined) return now.record.ended.status;
    const isLost = now === undefined || now.state === 'lost';
    if (!isLost && Date.now() - began < LAST_WORDS) continue;
    throw new KilnError('E_JOB_LOST', `the job ${titleOf(record)} is lost: its process ended`, {
      hint: 'kilnd was ended or killed, and its sandboxes with it, or the disk is full; `kiln logs` has what it wrote',
    });
  }
}
