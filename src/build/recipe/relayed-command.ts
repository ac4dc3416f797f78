/** One command of a TypeScript recipe, on kiln's side: what it writes goes to the recipe. */
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';
import { KilnError } from '../../errors.ts';
import { startProgram } from '../../kernel/child-process.ts';
import { withCallersUmask } from '../../kernel/own-umask.ts';
import { awaitedLater } from '../../promise.ts';
import type { RecipeRequest } from './request.ts';
import { CHUNK_BYTES, type ParentMessage, type SpawnMessage } from './script-protocol.ts';

/** What is used of a command, wherever it runs. */
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
  /** False when there is much under way: stop sending until it has drained. */
  send(message: ParentMessage): boolean;
  whenWritable(then: () => void): void;
}

/** Relays between a command and the recipe that asked for it. */
export class RelayedCommand {
  /** Resolves when the command has ended and all its output is sent; never rejects. */
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

  /** Gives the command input; one piece at a time, the next when the recipe has heard `drained`. */
  feed(data: Buffer): void {
    if (this.#feeding) {
      throw new KilnError('E_CONFINE_PROTOCOL', 'the recipe sends input before the last is taken');
    }
    this.#feeding = true;
    const done = () => {
      this.#feeding = false;
      this.#pipe.send({ type: 'drained', id: this.#id });
    };
    // Whether it took it or is gone: there is nothing to wait for any more.
    this.#started.then(
      ({ stdin }) => (stdin.destroyed ? done() : void stdin.write(data, done)),
      () => undefined,
    );
  }

  endInput(): void {
    this.#started.then(
      ({ stdin }) => stdin.end(),
      () => undefined,
    );
  }

  kill(signal: number): void {
    this.#started.then(
      (command) => command.kill(signal),
      () => undefined,
    );
  }

  /** Lets go of the streams; whoever owns the command ends it. */
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
      const message = error instanceof Error ? error.message : String(error);
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

/* `$host`: a command of a recipe that the caller lets run on the host. */

/**
 * Starts a command as the caller: with sudo, as the one who called sudo. It ends when kiln does.
 * Throws what spawn(2) says.
 */
export async function startOnHost(
  { argv, cwd, env }: SpawnMessage,
  { caller, callerEnvironment }: Pick<RecipeRequest, 'caller' | 'callerEnvironment'>,
): Promise<CommandProcess> {
  const command = startProgram(
    'setpriv',
    ['--pdeathsig', 'KILL', '--', ...withCallersUmask(argv)],
    {
      cwd,
      env: { ...callerEnvironment, ...env },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      ...(process.geteuid?.() === 0 ? { uid: caller.uid, gid: caller.gid } : {}),
    },
  );
  await once(command, 'spawn');
  command.stdin.on('error', () => command.stdin.destroy());
  const { stdin, stdout, stderr, pid } = command;
  return {
    stdin,
    stdout,
    stderr,
    kill: (signal) => {
      if (pid === undefined || command.exitCode !== null || command.signalCode !== null)
        return false;
      try {
        return process.kill(-pid, signal);
      } catch {
        return command.kill(signal as NodeJS.Signals | number);
      }
    },
    once: command.once.bind(command) as CommandProcess['once'],
  };
}
