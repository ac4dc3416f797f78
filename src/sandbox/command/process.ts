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

/** The number of a signal, by its name. */
export function signalNumber(signal: NodeJS.Signals): number {
  return signalNumbers[signal] ?? 0;
}

const signalNames = new Map<number, NodeJS.Signals>(
  Object.entries(constants.signals).map(([name, number]) => [number, name as NodeJS.Signals]),
);

/** What a command has used, from wait4(2); only its own process tree that it has waited for. */
export interface CommandUsage {
  readonly userMicroseconds: number;
  readonly systemMicroseconds: number;
  readonly peakRssBytes: number;
}

/** How a command ended, as the init tells it. */
export type ExitedAnswer = AnswerOf<'exited'>;

/** A kind of system call that a command's filter refused, as the init counted it. */
export type RefusedCall = Parts<'refused'>;

interface SandboxProcessEvents {
  spawn: [];
  /** The command has ended; output may still be on its way. */
  exit: [code: number | null, signal: NodeJS.Signals | null];
  /** The command has ended and all its output has been read. */
  close: [code: number | null, signal: NodeJS.Signals | null];
  error: [error: Error];
  /** Output has been passed on that is not read here; see {@link RelayedOutput}. */
  relayed: [];
}

/**
 * A command in a sandbox, shaped as node:child_process has it: stdin, stdout, stderr, pid, kill(),
 * exitCode, signalCode and the events spawn, exit, close and error. `pid` is the one in the sandbox.
 */
export class SandboxProcess extends EventEmitter<SandboxProcessEvents> {
  readonly pid: number;
  readonly stdin: Writable;
  /** With a terminal, everything the command writes. Empty where it is relayed. */
  readonly stdout: Readable;
  /** Empty with a terminal. */
  readonly stderr: Readable;
  readonly stdio: readonly [Writable, Readable, Readable];
  readonly spawnfile: string;
  readonly spawnargs: readonly string[];
  /** What was measured to be in force when it started. */
  readonly facts: CommandFacts;
  readonly connected = false;
  exitCode: number | null = null;
  signalCode: NodeJS.Signals | null = null;
  killed = false;
  usage: CommandUsage | undefined;
  /** System calls that its filter refused, to it and its children, known once it has ended. */
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
    // In a later turn: a command may have ended before whoever started it could listen.
    ended.then(
      (answer) => setImmediate(() => this.#onExited(answer)),
      (error: Error) => setImmediate(() => this.#onGone(error)),
    );
    process.nextTick(() => this.emit('spawn'));
  }

  /**
   * Sends a signal to the command's process group, as a terminal does. Returns false when it has
   * ended already.
   */
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

  /** Tells the command's terminal its size, in characters. */
  resize(rows: number, columns: number): void {
    if (this.#ended) return;
    this.#channel.send(
      encodeRequest('winsize', [
        { op: 'id', id: this.#id },
        { op: 'terminal', rows, columns },
      ]),
    );
  }

  /** For ChildProcess's sake: a sandbox does not keep the event loop alive by itself. */
  ref(): void {}
  unref(): void {
    this.#channel.unref();
  }

  /** `moved` is fulfilled when all output has been moved that nobody reads here. */
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
    // The sandbox is gone, and so was everything in it: killed.
    this.signalCode = 'SIGKILL';
    const plain = error instanceof KilnError && error.code === 'E_SANDBOX_GONE';
    if (!plain || error.cause !== undefined) this.emit('error', error);
    this.#finish();
  }

  #finish(): void {
    this.#ended = true;
    // A terminal is one stream for both ways: its last output is still to be read.
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
