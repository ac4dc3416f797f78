import { EventEmitter } from 'node:events';
import { mkdirSync } from 'node:fs';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import { PassThrough } from 'node:stream';
import { defined } from '../defined.ts';
import { attempt } from '../host/calls/libc.ts';
import { DISK_FULL, isDiskFull, namingFullDisk } from '../host/calls/system-error.ts';
import type { HeldLock } from '../host/files/flock.ts';
import { removeTree } from '../host/files/remove-tree.ts';
import { FrameServer } from '../host/sockets/frame-server.ts';
import { encodeFrame, FRAME, type ReceivedFrame, sendMessage } from '../host/sockets/frames.ts';
import type { StatePaths } from '../host/state/paths.ts';
import { JobLog, PIECE } from './log.ts';
import { takeName } from './names.ts';
import {
  type JobRecord,
  jobFiles,
  makeJobFolder,
  removeOldJobs,
  shortened,
  writeJob,
} from './record.ts';

/** Output that may wait for one who is attached, bytes: more is left out for them, and the job goes on. */
const WAITING_MAX = 4 << 20;

/** How long, in milliseconds, an ended job waits for those who still read its output. */
const LAST_WORDS = 10_000;

/** Input that may wait for the command, bytes: whoever sends more waits. */
const INPUT_MAX = 64 * 1024;

/** The exit status of a job that kiln could not go on with. */
const KILN_FAILED = 125;

export type JobControl =
  | { readonly do: 'follow' }
  | { readonly do: 'resize'; readonly rows: number; readonly columns: number }
  /** The command gets SIGTERM; a job that is still getting ready ends. */
  | { readonly do: 'stop' }
  /** As two signals to whoever runs it in the foreground: it ends now. */
  | { readonly do: 'end' };

export type JobMessage =
  /** `follows`: an offset in the log; the follower reads everything before it from the file. */
  { readonly follows: number } | { readonly ended: number } | { readonly omitted: number };

interface JobEvents {
  signal: [signal: NodeJS.Signals];
  begun: [];
}

export interface JobOptions {
  readonly name: string | undefined;
  readonly owner: number | undefined;
  readonly command: readonly string[];
  readonly tty: boolean;
  readonly resultDirectory: string | undefined;
  readonly rows: number;
  readonly columns: number;
}

export class DetachedJob extends EventEmitter<JobEvents> {
  readonly folder: string;
  readonly #paths: StatePaths;
  readonly #lock: HeldLock;
  readonly #log: JobLog;
  readonly #followers = new Map<Socket, { omitted: number }>();
  record: JobRecord;
  windowSize: { readonly rows: number; readonly columns: number };
  #lost = false;
  /** Its output has no room: the job is ended for that, and no more of it is kept. */
  #isFull = false;
  #server: FrameServer | undefined;
  readonly input = new PassThrough({ highWaterMark: INPUT_MAX });

  private constructor(
    paths: StatePaths,
    { folder, lock }: { readonly folder: string; readonly lock: HeldLock },
    record: JobRecord,
    windowSize: { readonly rows: number; readonly columns: number },
  ) {
    super();
    this.folder = folder;
    this.#paths = paths;
    this.#lock = lock;
    this.record = record;
    this.windowSize = windowSize;
    this.#log = new JobLog(folder);
    if (!record.tty) this.input.end();
  }

  static async make(
    paths: StatePaths,
    { name, owner, command, tty, resultDirectory, rows, columns }: JobOptions,
  ): Promise<DetachedJob> {
    await removeOldJobs(paths, undefined);
    // Until it has a record: another one may ask for the same name.
    await using _name = name === undefined ? undefined : await takeName(paths, owner, name);
    const { id, ...made } = await makeJobFolder(paths);
    const record: JobRecord = {
      ...{ id, command: shortened(command), tty, created: Date.now() },
      ...defined({ name, owner, resultDirectory }),
    };
    try {
      writeJob(made.folder, record);
      return new DetachedJob(paths, made, record, { rows, columns });
    } catch (error) {
      await removeTree(made.folder);
      await made.lock.release();
      throw namingFullDisk(error, made.folder);
    }
  }

  get hasBegun(): boolean {
    return this.record.began !== undefined;
  }

  /** Its caller stays with it, and may leave it: `begin` then. */
  stays(sandbox: string | undefined): void {
    this.record = { ...this.record, ...defined({ sandbox }) };
  }

  begin(sandbox?: string): void {
    const socket = jobFiles.socket(this.#paths, this.record.id);
    // Only root enters the folder.
    mkdirSync(dirname(socket), { recursive: true, mode: 0o700 });
    this.#server = new FrameServer(socket, (client) => this.#serve(client));
    this.record = { ...this.record, ...defined({ sandbox }), began: Date.now() };
    writeJob(this.folder, this.record);
    this.emit('begun');
  }

  write(output: 1 | 2, bytes: Buffer): void {
    if (bytes.length > PIECE) {
      for (let at = 0; at < bytes.length; at += PIECE)
        this.write(output, bytes.subarray(at, at + PIECE));
      return;
    }
    if (this.#isFull) return;
    try {
      this.#log.write(output, bytes);
    } catch (error) {
      if (!isDiskFull(error)) throw error;
      this.#endFull();
      return;
    }
    this.#pass(output, bytes);
  }

  #endFull(): void {
    this.#isFull = true;
    const what = `no room is left for what the job ${this.record.id} writes: it is ended`;
    const bytes = Buffer.from(`kiln: ${what} [${DISK_FULL}]\n`);
    this.#log.giveRoom();
    attempt(() => this.#log.write(2, bytes));
    this.#pass(2, bytes);
    this.end();
  }

  #pass(output: 1 | 2, bytes: Buffer): void {
    const frame = encodeFrame(output === 1 ? FRAME.data : FRAME.errorData, bytes);
    for (const [client, state] of this.#followers) {
      if (client.writableLength > WAITING_MAX) {
        state.omitted += bytes.length;
        continue;
      }
      if (state.omitted > 0) say(client, { omitted: state.omitted });
      state.omitted = 0;
      client.write(frame);
    }
  }

  #serve(client: Socket): (frame: ReceivedFrame) => void {
    client.once('close', () => this.#followers.delete(client));
    return ({ kind, body }) => {
      if (kind === FRAME.data) this.#forwardInput(client, body);
      else if (kind === FRAME.control) {
        this.#control(client, JSON.parse(body.toString()) as JobControl);
      }
    };
  }

  #forwardInput(client: Socket, body: Buffer): void {
    if (!this.record.tty || this.input.writableEnded || this.input.write(body)) return;
    client.pause();
    this.input.once('drain', () => client.resume());
  }

  #control(client: Socket, wanted: JobControl): void {
    switch (wanted.do) {
      case 'follow':
        say(client, { follows: this.#log.at });
        this.#followers.set(client, { omitted: 0 });
        break;
      case 'resize':
        this.windowSize = { rows: wanted.rows, columns: wanted.columns };
        this.emit('signal', 'SIGWINCH');
        break;
      case 'stop':
        this.emit('signal', 'SIGTERM');
        break;
      case 'end':
        this.end();
    }
  }

  /** As if whoever runs it in the foreground had pressed ^C twice. `lost`: its daemon is gone. */
  end(why?: 'lost'): void {
    this.#lost = why === 'lost';
    this.emit('signal', 'SIGTERM');
    this.emit('signal', 'SIGTERM');
  }

  async over(given: number): Promise<void> {
    const lost = this.#lost;
    const status = this.#isFull ? KILN_FAILED : given;
    this.#log.giveRoom();
    if (!this.hasBegun) {
      this.#log[Symbol.dispose]();
      await removeTree(this.folder);
      await this.#lock.release();
      return;
    }
    if (!lost) {
      this.record = { ...this.record, ended: { at: Date.now(), status } };
      writeJob(this.folder, this.record);
    }
    this.#log[Symbol.dispose]();
    this.#server?.close();
    await this.#lock.release();
    // This process may end next, and with it what a slow reader has not taken yet.
    for (const client of this.#server?.clients ?? []) {
      if (!lost) say(client, { ended: status });
      client.end();
    }
    await this.#server?.left(LAST_WORDS);
  }
}

function say(client: Socket, message: JobMessage): void {
  sendMessage(client, message);
}
