/** Stdio of a command of a call: output in replies, input and signals through other calls. */
import { addAbortListener } from 'node:events';
import { constants } from 'node:os';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ExecuteParameters, RunParameters, RunReply } from '../../api/io-kiln.ts';
import type { Call, Control } from '../../daemon/call.ts';
import { KilnError } from '../../errors.ts';
import { roomIn } from '../../host/sockets/back-pressure.ts';
import { awaitedLater } from '../../promise.ts';
import type { SandboxProcess } from '../../sandbox/command/process.ts';

/** The most bytes of each output in the one reply of a call without `more`. */
const COLLECTED_MAX = 1 << 20;

/** How long a resumed pipe may take to show that it has more, milliseconds. */
const PIPE_PAUSE = 50;

export class CommandStdio implements Disposable {
  readonly #call: Call;
  readonly #gone: Disposable;
  readonly #collected = { stdout: [] as Buffer[], stderr: [] as Buffer[] };
  #truncated = false;
  #chunks = 0;
  readonly #waiting = new Set<Promise<void>>();

  constructor(
    command: SandboxProcess,
    call: Call,
    kill: () => void,
    { input, interactive = false }: RunParameters | ExecuteParameters,
  ) {
    this.#call = call;
    this.#gone = addAbortListener(call.signal, kill);
    const terminal = command.stdout === (command.stdin as Readable | Writable);
    this.#pass('stdout', command.stdout);
    if (!terminal) this.#pass('stderr', command.stderr);
    call.onControl((control) => act(command, control));
    if (input !== undefined) command.stdin.write(Buffer.from(input, 'base64'));
    if (!interactive && !terminal) command.stdin.end();
  }

  #pass(name: 'stdout' | 'stderr', stream: Readable): void {
    const call = this.#call;
    let bytes = 0;
    stream.on('data', (chunk: Buffer) => {
      call.share.work();
      this.#chunks++;
      if (call.head.more) {
        call.reply({ [name]: chunk.toString('base64') });
      } else {
        if (bytes < COLLECTED_MAX)
          this.#collected[name].push(chunk.subarray(0, COLLECTED_MAX - bytes));
        bytes += chunk.length;
        this.#truncated ||= bytes > COLLECTED_MAX;
      }
      if (!call.hasRoom) this.#wait(stream);
    });
  }

  #wait(stream: Readable): void {
    stream.pause();
    const room = awaitedLater(
      this.#call.room().then(() => {
        this.#waiting.delete(room);
        stream.resume();
      }),
    );
    this.#waiting.add(room);
  }

  /**
   * Waits for the output of an ended command if the caller was slow to take it. Output of processes that still
   * run is not awaited.
   */
  async rest(): Promise<void> {
    while (this.#waiting.size > 0) {
      await Promise.all(this.#waiting);
      const before = this.#chunks;
      await sleep(PIPE_PAUSE);
      if (this.#chunks === before) return;
    }
  }

  get collected(): RunReply {
    if (this.#call.head.more) return {};
    const { stdout, stderr } = this.#collected;
    return {
      stdout: Buffer.concat(stdout).toString('base64'),
      stderr: Buffer.concat(stderr).toString('base64'),
      ...(this.#truncated ? { truncated: true } : {}),
    };
  }

  [Symbol.dispose](): void {
    this.#call.onControl(undefined);
    this.#gone[Symbol.dispose]();
  }
}

async function act(command: SandboxProcess, { data, end, signal, size }: Control): Promise<void> {
  const { stdin } = command;
  if (data !== undefined) {
    if (stdin.destroyed || stdin.writableEnded) throw notReadError();
    if (!stdin.write(Buffer.from(data, 'base64'))) {
      await roomIn(stdin);
      if (stdin.destroyed) throw notReadError();
    }
  }
  if (end === true) stdin.end();
  if (signal !== undefined) command.kill(signal as NodeJS.Signals);
  if (size !== undefined) command.resize(size.rows, size.columns);
}

function notReadError(): KilnError {
  return new KilnError('E_INPUT', 'the command does not read its standard input any more', {
    hint: 'it has closed it, or it has ended',
  });
}

export function checkSignal(name: string): string {
  if (Object.hasOwn(constants.signals, name)) return name;
  throw new KilnError('E_ARGUMENT', `there is no signal ${name}`, { hint: 'such as SIGTERM' });
}
