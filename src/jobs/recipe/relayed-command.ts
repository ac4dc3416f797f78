import type { Readable, Writable } from 'node:stream';
import { KilnError, reasonOf } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import { CHUNK_BYTES, type ParentMessage } from './script-protocol.ts';

export interface CommandProcess {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  kill(signal: number): boolean;
  once(
    event: 'exit',
    listener: (code: number | null, signal: NodeJS.Signals | null) => void,
  ): unknown;
  once(event: 'close', listener: () => void): unknown;
  once(event: 'error', listener: (error: Error) => void): unknown;
}

interface RecipePipe {
  /** False when much is under way: stop sending until it has drained. */
  send(message: ParentMessage): boolean;
  whenWritable(then: () => void): void;
}

export class RelayedCommand {
  readonly over: Promise<void>;
  readonly #id: number;
  readonly #pipe: RecipePipe;
  readonly #started: Promise<CommandProcess>;
  #feeding = false;
  #process: CommandProcess | undefined;

  constructor(id: number, started: Promise<CommandProcess>, pipe: RecipePipe) {
    this.#id = id;
    this.#pipe = pipe;
    this.#started = awaitedLater(started);
    this.over = awaitedLater(this.#relay());
  }

  feed(data: Buffer): void {
    if (this.#feeding) {
      throw new KilnError('E_CONFINE_PROTOCOL', 'the recipe sends input before the last is taken');
    }
    this.#feeding = true;
    const done = () => {
      this.#feeding = false;
      this.#pipe.send({ type: 'drained', id: this.#id });
    };
    // A command that is gone drains its input as well.
    this.#withProcess(({ stdin }) => (stdin.destroyed ? done() : void stdin.write(data, done)));
  }

  endInput(): void {
    this.#withProcess(({ stdin }) => void stdin.end());
  }

  kill(signal: number): void {
    this.#withProcess((command) => void command.kill(signal));
  }

  #withProcess(act: (command: CommandProcess) => void): void {
    this.#started.then(act, () => undefined);
  }

  abandon(): void {
    this.#process?.stdin.destroy();
    this.#process?.stdout.destroy();
    this.#process?.stderr.destroy();
  }

  async #relay(): Promise<void> {
    const id = this.#id;
    try {
      const command = await this.#started;
      this.#process = command;
      this.#pipe.send({ type: 'started', id });
      this.#forward('stdout', command.stdout);
      this.#forward('stderr', command.stderr);
      await new Promise<void>((resolve, reject) => {
        command.once('error', reject);
        command.once('exit', (code, signal) => this.#pipe.send({ type: 'exit', id, code, signal }));
        command.once('close', resolve);
      });
    } catch (error) {
      const message = reasonOf(error);
      this.#pipe.send({ type: 'failed', id, message });
    }
  }

  #forward(stream: 'stdout' | 'stderr', source: Readable): void {
    const id = this.#id;
    source.on('data', (chunk: Buffer) => {
      let writable = true;
      for (let at = 0; at < chunk.length; at += CHUNK_BYTES) {
        const data = chunk.subarray(at, at + CHUNK_BYTES).toString('base64');
        writable = this.#pipe.send({ type: 'output', id, stream, data });
      }
      if (writable) return;
      source.pause();
      this.#pipe.whenWritable(() => source.resume());
    });
    source.once('close', () => this.#pipe.send({ type: 'output', id, stream, data: null }));
  }
}
