import { EventEmitter } from 'node:events';
import { constants } from 'node:os';
import type { Readable, Writable } from 'node:stream';
import { KilnError } from '../../errors.ts';
import { relay } from '../../host/sockets/relay.ts';
import { encodeRequest } from '../wire/encode.ts';
import type { AnswerOf, Parts } from '../wire/table.ts';
import type { Channel } from './channel.ts';
import type { CommandFacts } from './command-facts.ts';
import type { CommandStreams } from './streams.ts';

const signalNumbers: Readonly<Record<string, number>> = constants.signals;

/** The number of a signal name. */
export function signalNumber(signal: NodeJS.Signals): number {
  return signalNumbers[signal] ?? 0;
}

const signalNames = new Map<number, NodeJS.Signals>(
  Object.entries(constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
);

/** What a command used, from wait4(2): only children that it has waited for are included. */
export interface CommandUsage {
  readonly userMicroseconds: number;
  readonly systemMicroseconds: number;
  readonly peakRssBytes: number;
}

/** The init's answer when a command ended. */
export type ExitedAnswer = AnswerOf<'exited'>;

/** A system call that the filter refused, with the init's count. */
export type RefusedCall = Parts<'refused'>;

interface SandboxProcessEvents {
  spawn: [];
  /** The command has ended; output may still come. */
  exit: [code: number | null, signal: NodeJS.Signals | null];
  /** The command has ended and all its output has been read. */
  close: [code: number | null, signal: NodeJS.Signals | null];
  error: [error: Error];
  /** Output was moved on without being read here; see {@link RelayedOutput}. */
  relayed: [];
}

/**
 * A command in a sandbox, with the interface of node:child_process: stdin, stdout, stderr, pid, kill(),
 * exitCode, signalCode and the events spawn, exit, close and error. `pid` is the pid in the sandbox.
 */
export class SandboxProcess extends EventEmitter<SandboxProcessEvents> {
  readonly pid: number;
  readonly stdin: Writable;
  /** With a terminal, all output of the command. Empty if output is relayed. */
  readonly stdout: Readable;
  /** Empty with a terminal. */
  readonly stderr: Readable;
  readonly stdio: readonly [Writable, Readable, Readable];
  readonly spawnfile: string;
  readonly spawnargs: readonly string[];
  /** What was measured when the command started. */
  readonly facts: CommandFacts;
  readonly connected = false;
  exitCode: number | null = null;
  signalCode: NodeJS.Signals | null = null;
  killed = false;
  usage: CommandUsage | undefined;
  /** System calls that the filter refused to the command and its children; known once it has ended. */
  refused: readonly RefusedCall[] = [];

  readonly #channel: Channel;
  readonly #id: number;
  #openStreams = 0;
  #ended = false;

  constructor(
    channel: Channel,
    id: number,
    pid: number,
    argv: readonly string[],
    streams: CommandStreams,
    facts: CommandFacts,
    ended: Promise<ExitedAnswer>,
  ) {
    super();
    this.#channel = channel;
    this.#id = id;
    this.pid = pid;
    this.facts = facts;
    this.spawnfile = argv[0] ?? '';
    this.spawnargs = argv;
    this.stdin = streams.stdin;
    this.stdout = streams.stdout;
    this.stderr = streams.stderr;
    for (const stream of streams.read) this.#count(stream);
    if (streams.lanes.length > 0) {
      this.#awaitOutput(relay(streams.lanes, () => this.emit('relayed')));
    }
    if (streams.handed !== undefined) {
      streams.handed.onMoved(() => this.emit('relayed'));
      this.#awaitOutput(streams.handed.drained);
    }
    this.stdio = [this.stdin, this.stdout, this.stderr];
    // In a later turn, because the command may have ended before its starter could listen.
    ended.then(
      (answer) => setImmediate(() => this.#onExited(answer)),
      (error: Error) => setImmediate(() => this.#onGone(error)),
    );
    process.nextTick(() => this.emit('spawn'));
  }

  /** Sends a signal to the command's process group, as a terminal does. False if the command has ended. */
  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    if (this.#ended || this.#channel.ended) return false;
    const number = typeof signal === 'number' ? signal : signalNumbers[signal];
    if (number === undefined) throw new TypeError(`unknown signal ${signal}`);
    this.#channel.send(
      encodeRequest('signal', [
        { op: 'id', id: this.#id },
        { op: 'signal', signal: number },
      ]),
    );
    this.killed = true;
    return true;
  }

  /** Sets the size of the command's terminal, in characters. */
  resize(rows: number, columns: number): void {
    if (this.#ended) return;
    this.#channel.send(
      encodeRequest('winsize', [
        { op: 'id', id: this.#id },
        { op: 'terminal', rows, columns },
      ]),
    );
  }

  /** Exists for compatibility with ChildProcess: a sandbox does not keep the event loop alive. */
  ref(): void {}
  unref(): void {
    this.#channel.unref();
  }

  /** `moved` resolves when all relayed output has been moved. */
  #awaitOutput(moved: Promise<void>): void {
    this.#openStreams++;
    const end = (cause?: unknown) => {
      this.#openStreams--;
      if (cause !== undefined) this.emit('error', outputFailed(cause));
      this.#closeWhenDone();
    };
    moved.then(() => end(), end);
  }

  #count(stream: Readable): void {
    if (stream.closed) return;
    this.#openStreams++;
    stream.once('close', () => {
      this.#openStreams--;
      this.#closeWhenDone();
    });
  }

  #onExited(answer: ExitedAnswer): void {
    const { status, userMicroseconds, systemMicroseconds, peakRssBytes } = answer;
    this.refused = answer.refused;
    this.usage = { userMicroseconds, systemMicroseconds, peakRssBytes };
    const signal = status & 0x7f;
    if (signal === 0) this.exitCode = (status >> 8) & 0xff;
    else this.signalCode = signalNames.get(signal) ?? 'SIGKILL';
    this.#finish();
  }

  #onGone(error: Error): void {
    // The sandbox is gone, and everything in it was killed.
    this.signalCode = 'SIGKILL';
    const plain = error instanceof KilnError && error.code === 'E_SANDBOX_GONE';
    if (!plain || error.cause !== undefined) this.emit('error', error);
    this.#finish();
  }

  #finish(): void {
    this.#ended = true;
    // A terminal is one stream for both directions: its last output must still be read.
    if (this.stdin !== (this.stdout as Readable | Writable)) this.stdin.destroy();
    this.emit('exit', this.exitCode, this.signalCode);
    this.#closeWhenDone();
  }

  #closeWhenDone(): void {
    if (this.#ended && this.#openStreams === 0) {
      this.#openStreams = -1;
      this.emit('close', this.exitCode, this.signalCode);
    }
  }
}

function outputFailed(cause: unknown): KilnError {
  return new KilnError('E_OUTPUT', 'the command’s output cannot be passed on', {
    cause,
    hint: 'check whether the disk that it is redirected to is full',
  });
}
