import { closeSync } from 'node:fs';
import { Socket } from 'node:net';
import { basename } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { createPipe } from '../../host/calls/descriptor.ts';
import { encodeFrame } from '../../host/confine/frame.ts';
import { runConfined } from '../../host/confine/run.ts';
import { NotUtf8 } from '../../host/files/user-file.ts';
import { LONGEST_WAIT } from '../../host/process/wait-for.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { RecipeFolder } from '../../recipe/folder.ts';
import { type CommandProcess, type RelayedCommand, relayCommand } from './relayed-command.ts';
import {
  CHUNK_BYTES,
  type FileAnswer,
  type ParentMessage,
  type ScriptInput,
} from './script-protocol.ts';
import { readModule } from './sources.ts';

/** Commands of one recipe at a time; the init of a sandbox has room for 256. */
const MAX_COMMANDS = 200;

/** Bytes of one message of a recipe's: a command's arguments and environment (Linux: 2 MiB), quoted. */
const LONGEST_MESSAGE = 16 * 2 ** 20;

/** Bytes of answers that may wait for a recipe to read them. Output of its commands waits in their pipes. */
const MAX_UNREAD = 32 * 2 ** 20;
/** Bytes of files: a recipe waits for one before it asks for the next, and none has more than 1 MiB. */
const MAX_UNREAD_FILES = 4 * 2 ** 20;

/** A recipe waits for its commands, and computes little itself. */
const CPU_SECONDS = 3600;

/** Time-outs of the build end a recipe earlier; this is the last resort. */
const WALL_MS = 7 * 24 * 3600 * 1000;

// What the child may say. It is hostile.
const MAX_TEXT = 64 * 1024;
/** As Linux has it for one argument (MAX_ARG_STRLEN). */
const MAX_ARGUMENT = 128 * 1024;

const id = z.int().min(1).max(0x80000000);
const text = z.string().max(MAX_TEXT);
const argument = z
  .string()
  .max(MAX_ARGUMENT)
  .regex(/^[^\0]*$/);
const variable = z
  .string()
  .max(4096)
  .regex(/^[^=\0]+$/);
const signalName = z.string().regex(/^SIG[A-Z0-9]{1,12}$/);
const data = z.base64().max(Math.ceil((CHUNK_BYTES * 4) / 3) + 4);

const stepFailure = z.object({
  message: text,
  stack: text.optional(),
  exitCode: z.int().min(0).max(255).nullish(),
  signal: signalName.nullish(),
  isCommand: z.boolean(),
});

const childMessageSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('recipe'), value: z.unknown() }),
  /** Answered on the second pipe, for which the child waits synchronously. */
  z.object({ type: z.literal('read'), path: z.string().max(4096) }),
  z.object({
    type: z.literal('spawn'),
    id,
    where: z.enum(['sandbox', 'host']),
    argv: z.array(argument).min(1).max(10_000),
    cwd: argument.max(4096),
    env: z.record(variable, argument),
  }),
  z.object({ type: z.literal('stdin'), id, data }),
  z.object({ type: z.literal('stdin-end'), id }),
  z.object({ type: z.literal('kill'), id, signal: z.int().min(0).max(64) }),
  z.object({ type: z.literal('log'), data }),
  z.object({ type: z.literal('step-done'), failure: stepFailure.optional() }),
]);

export type ChildMessage = z.output<typeof childMessageSchema>;
export type SpawnMessage = Extract<ChildMessage, { type: 'spawn' }>;
export type StepFailure = z.output<typeof stepFailure>;

interface ScriptOptions {
  readonly path: string;
  readonly folder: RecipeFolder;
  readonly parameters: Readonly<Record<string, string>>;
  readonly hostCwd: string | undefined;
  readonly signal: AbortSignal;
  readonly onLog: (chunk: Buffer) => void;
}

type StartCommand = (message: SpawnMessage) => Promise<CommandProcess>;

type StepMessage = Extract<ParentMessage, { type: 'step' }>;

export class ScriptSession implements AsyncDisposable {
  readonly #options: ScriptOptions;
  readonly #stop = new AbortController();
  readonly #messages: Socket;
  readonly #answers: Socket;
  readonly #commands = new Map<number, RelayedCommand>();
  readonly #ended: Promise<void>;
  readonly #loaded = deferred<unknown>();
  #step: PromiseWithResolvers<StepFailure | undefined> | undefined;
  #start: StartCommand | undefined;
  #failure: unknown;

  constructor(options: ScriptOptions) {
    this.#options = options;
    const [messages, answers] = [createPipe(0), createPipe(0)];
    this.#messages = writer(messages.write);
    this.#answers = writer(answers.write);
    const input: ScriptInput = {
      entry: basename(options.path),
      parameters: options.parameters,
      hostCwd: options.hostCwd,
    };
    const readers = [messages.read, answers.read];
    const child = runConfined<ChildMessage>({
      task: 'recipe-script',
      input,
      fds: readers,
      longestMessage: LONGEST_MESSAGE,
      limits: { cpuSeconds: CPU_SECONDS, wallMs: WALL_MS, fileSize: 0 },
      signal: AbortSignal.any([options.signal, this.#stop.signal]),
      validate: (value) => childMessageSchema.parse(value),
    });
    this.#ended = awaitedLater(
      this.#obey(child).finally(() => {
        for (const fd of readers) closeSync(fd);
      }),
    );
  }

  /**
   * What the recipe's file exports.
   * @throws KilnError E_RECIPE_TIMEOUT after so many milliseconds, E_RECIPE_SCRIPT; the signal's reason
   */
  async load(timeout?: number): Promise<unknown> {
    if (timeout === undefined) return await this.#loaded.promise;
    const { path } = this.#options;
    const late = new KilnError(
      'E_RECIPE_TIMEOUT',
      `${path} was not loaded in ${timeout / 1000} s`,
      {
        hint: 'what stands outside of its steps runs when it is loaded; --timeout gives it more time',
      },
    );
    using _timer = setTimeout(() => this.#stop.abort(late), Math.min(timeout, LONGEST_WAIT));
    return await this.#loaded.promise;
  }

  /**
   * Runs the function of one step, whose commands `start` starts. Resolves with its failure, if there is one.
   * @throws KilnError E_RECIPE_SCRIPT when the recipe's process is gone; the signal's reason
   */
  async runStep(step: StepMessage, start: StartCommand): Promise<StepFailure | undefined> {
    if (this.#failure !== undefined) throw this.#failure;
    this.#step = deferred();
    this.#start = start;
    this.#send(step);
    try {
      return await this.#step.promise;
    } finally {
      this.#step = undefined;
      this.#start = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new KilnError('E_RECIPE_SCRIPT', 'the recipe has ended'));
    await this.#ended;
    for (const command of this.#commands.values()) command.abandon();
    this.#messages.destroy();
    this.#answers.destroy();
  }

  async #obey(child: AsyncGenerator<ChildMessage, void, undefined>): Promise<void> {
    try {
      for await (const message of child) this.#receive(message);
      this.#fail(
        new KilnError('E_RECIPE_SCRIPT', `${this.#options.path} ended before its steps did`, {
          hint: 'a recipe must not call process.exit(), and must await its commands',
        }),
      );
    } catch (error) {
      this.#fail(this.#explain(error));
    }
  }

  #receive(message: ChildMessage): void {
    switch (message.type) {
      case 'recipe':
        this.#loaded.resolve(message.value);
        break;
      case 'read':
        this.#answers.write(encodeFrame(this.#read(message.path)));
        if (this.#answers.writableLength > MAX_UNREAD_FILES) throw this.#unreadError();
        break;
      case 'spawn':
        this.#spawn(message);
        break;
      case 'stdin':
        this.#commands.get(message.id)?.feed(Buffer.from(message.data, 'base64'));
        break;
      case 'stdin-end':
        this.#commands.get(message.id)?.endInput();
        break;
      case 'kill':
        this.#commands.get(message.id)?.kill(message.signal);
        break;
      case 'log':
        this.#options.onLog(Buffer.from(message.data, 'base64'));
        break;
      case 'step-done':
        this.#step?.resolve(message.failure);
        break;
    }
  }

  #read(path: string): FileAnswer {
    try {
      return { content: readModule(this.#options.folder, path) };
    } catch (error) {
      const hint = error instanceof NotUtf8 ? `; ${NotUtf8.hint}` : '';
      return { problem: `${error instanceof Error ? error.message : String(error)}${hint}` };
    }
  }

  #spawn(message: SpawnMessage): void {
    const { id } = message;
    const start = this.#start;
    if (this.#commands.has(id)) {
      throw new KilnError('E_CONFINE_PROTOCOL', `the recipe starts command ${id} twice`);
    }
    // The recipe's process is hostile: its rights are checked here.
    const problem =
      message.where === 'host' && this.#options.hostCwd === undefined
        ? '$host is not allowed: kiln build --allow-host allows it'
        : this.#commands.size >= MAX_COMMANDS
          ? `more than ${MAX_COMMANDS} commands at once`
          : undefined;
    if (start === undefined || problem !== undefined) {
      const why = problem ?? 'commands can be run in steps only';
      this.#send({ type: 'failed', id, message: why });
      return;
    }
    const command = relayCommand(id, start(message), {
      send: (answer) => this.#send(answer),
      whenWritable: (then) => this.#messages.once('drain', then),
    });
    this.#commands.set(id, command);
    const forget = () => this.#commands.delete(id);
    command.over.then(forget, forget);
  }

  /** False when the child has much to read already: wait for the pipe to drain. */
  #send(message: ParentMessage): boolean {
    if (this.#messages.destroyed) return true;
    const writable = this.#messages.write(encodeFrame(message));
    if (this.#messages.writableLength > MAX_UNREAD) {
      this.#messages.destroy();
      this.#stop.abort(this.#unreadError());
    }
    return writable;
  }

  #unreadError(): KilnError {
    return new KilnError('E_RECIPE_SCRIPT', `${this.#options.path} does not read kiln's answers`, {
      hint: 'it was ended, before its unread answers fill the memory; a recipe that uses zx reads them',
    });
  }

  #fail(error: unknown): void {
    this.#failure ??= error;
    this.#loaded.reject(error);
    this.#step?.reject(error);
  }

  #explain(error: unknown): unknown {
    if (!(error instanceof KilnError)) return error;
    if (error.code === 'E_CONFINE_DIED') {
      return new KilnError('E_RECIPE_SCRIPT', `${this.#options.path} died`, {
        cause: error,
        hint: 'it called process.exit(), or needed more memory or processor time than a recipe may have',
      });
    }
    return error;
  }
}

function writer(fd: number): Socket {
  const socket = new Socket({ fd, readable: false, writable: true });
  socket.setMaxListeners(0);
  // The end of the child is noticed on its other pipe.
  socket.on('error', () => socket.destroy());
  return socket;
}
