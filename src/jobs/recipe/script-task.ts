/**
 * The confined child that a TypeScript recipe runs in. It has no file, no network and no way to start a program:
 * zx's `$` asks kiln to start it, in the sandbox or, where the caller allows that, on the host.
 */
import { readSync } from 'node:fs';
import { Socket } from 'node:net';
import { resolve } from 'node:path';
import { Writable } from 'node:stream';
import { KilnError } from '../../errors.ts';
import { FrameDecoder } from '../../host/confine/frame.ts';
import type { SingleTask } from '../../host/confine/task.ts';
import { shellWord } from '../../shell-words.ts';
import { defineRecipe, type RecipeHost, recipeHost } from './api.ts';
import { RECIPE_SCHEME, serveModules } from './recipe-modules.ts';
import { RemoteProcesses } from './remote-process.ts';
import {
  ANSWERS_FD_INDEX,
  CHUNK_BYTES,
  type FileAnswer,
  MESSAGES_FD_INDEX,
  type ParentMessage,
  type ScriptInput,
} from './script-protocol.ts';
import type { ChildMessage, StepFailure } from './script-session.ts';

type Zx = typeof import('zx');
type StepMessage = Extract<ParentMessage, { type: 'step' }>;

let zx: Zx | undefined;

async function prepare(): Promise<void> {
  zx = await import('zx');
  // A log is no terminal: spinner() then only does the work.
  process.env.CI = 'true';
}

async function run(input: unknown, { fds, emit }: Parameters<SingleTask['run']>[1]) {
  if (zx === undefined) throw new Error('run comes after prepare');
  const { entry, parameters, hostCwd } = input as ScriptInput;
  const send = (message: ChildMessage) => emit(message);
  const processes = new RemoteProcesses(send);
  redirectOutput(send);
  const sandbox = new SandboxShellState(zx, processes);
  const kiln = {
    defineRecipe,
    parameters: Object.freeze({ ...parameters }),
    $host: hostCwd === undefined ? recipeHost(notAllowed) : sandbox.hostShell(hostCwd),
  };
  serveModules(fileReader(send, fds[ANSWERS_FD_INDEX]!), { zx, 'zx/core': zx, kiln });
  const steps = await loadSteps(entry, send);
  await serve(fds[MESSAGES_FD_INDEX]!, processes, async (message) => {
    const step = steps[message.index];
    if (step === undefined) throw new Error(`the recipe has no function at step ${message.index}`);
    send({ type: 'step-done', ...(await outcome(zx!, () => sandbox.enter(message, step))) });
  });
}

export const task: SingleTask = { prepare, run };

function notAllowed(): never {
  throw new Error('$host is not allowed: kiln build --allow-host allows it');
}

class SynchronousCommand extends Error {
  constructor() {
    super('a command in a sandbox cannot be waited for synchronously: use await $`…`');
  }
}

class SandboxShellState {
  readonly #zx: Zx;
  readonly #processes: RemoteProcesses;
  #cwd = '/';

  constructor(loaded: Zx, processes: RemoteProcesses) {
    this.#zx = loaded;
    this.#processes = processes;
    const { $, ProcessOutput } = loaded;
    // kiln says why a command cannot start: what zx adds is of Node's own processes.
    ProcessOutput.getErrorMessage = ({ message }) => message;
    $.spawn = this.#spawn('sandbox');
    $.spawnSync = () => {
      throw new SynchronousCommand();
    };
    // zx throws it, and rejects a promise that nobody has seen with it.
    process.on('unhandledRejection', (error) => {
      if (!(Object(error).cause instanceof SynchronousCommand)) throw error;
    });
    $.kill = async (pid, signal = 'SIGTERM') => {
      processes.find(Number(pid))?.kill(signal);
    };
    $.quote = shellWord;
    $.verbose = true;
    // cd() and within() of zx keep the directory of the sandbox here; the sandbox checks that it exists.
    process.cwd = () => this.#cwd;
    process.chdir = (directory) => {
      this.#cwd = resolve(this.#cwd, directory);
    };
  }

  enter(message: StepMessage, step: () => unknown): unknown {
    return this.#zx.within(() => {
      const { $, cd } = this.#zx;
      const { path, prefix } = message.shell;
      Object.assign($, { shell: path, prefix, env: { ...message.env }, verbose: false });
      cd(message.workdir);
      $.verbose = true;
      return step();
    });
  }

  hostShell(cwd: string): RecipeHost {
    return this.#zx.$({
      spawn: this.#spawn('host'),
      cwd,
      env: {},
      shell: '/bin/sh',
      prefix: 'set -eu;',
      // zx’s own is for bash: other shells take an apostrophe in a value for the end of it.
      quote: shellWord,
    });
  }

  #spawn(where: 'sandbox' | 'host'): Zx['$']['spawn'] {
    const spawn = (
      ...given: Parameters<RemoteProcesses['spawn']> extends [unknown, ...infer Rest] ? Rest : never
    ) => this.#processes.spawn(where, ...given);
    return spawn as unknown as Zx['$']['spawn'];
  }
}

function redirectOutput(send: (message: ChildMessage) => void): void {
  for (const name of ['stdout', 'stderr'] as const) {
    const stream = new Writable({
      decodeStrings: true,
      write: (chunk: Buffer, _encoding, callback) => {
        for (let at = 0; at < chunk.length; at += CHUNK_BYTES) {
          const data = chunk.subarray(at, at + CHUNK_BYTES).toString('base64');
          send({ type: 'log', data });
        }
        callback();
      },
    });
    Object.defineProperty(process, name, { value: stream, configurable: true });
  }
}

function fileReader(send: (message: ChildMessage) => void, fd: number) {
  return (path: string): string => {
    send({ type: 'read', path });
    const decoder = new FrameDecoder();
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (;;) {
      const length = readSync(fd, chunk);
      if (length === 0) throw new Error('kiln is gone');
      const [answer] = decoder.push(Buffer.from(chunk.subarray(0, length)));
      if (answer === undefined) continue;
      const file = answer as FileAnswer;
      if ('problem' in file) throw new Error(file.problem);
      return file.content;
    }
  };
}

async function loadSteps(
  entry: string,
  send: (message: ChildMessage) => void,
): Promise<((() => unknown) | undefined)[]> {
  const url = `${RECIPE_SCHEME}///${encodeURIComponent(entry)}`;
  const module: { default?: unknown } = await importRecipe(url);
  const steps: ((() => unknown) | undefined)[] = [];
  const value = module.default;
  if (typeof value !== 'object' || value === null) {
    send({ type: 'recipe', value: value ?? null });
    return steps;
  }
  const recipe: Record<string, unknown> = { ...value };
  if (Array.isArray(recipe.steps)) {
    recipe.steps = recipe.steps.map((step: unknown, index) => {
      const run = { function: true };
      if (typeof step === 'function') {
        steps[index] = step as () => unknown;
        return step.name === '' ? { run } : { name: step.name, run };
      }
      if (typeof step !== 'object' || step === null) return step;
      const { run: body } = step as { run?: unknown };
      if (typeof body !== 'function') return step;
      steps[index] = body as () => unknown;
      return { ...step, run };
    });
  }
  send({ type: 'recipe', value: recipe });
  return steps;
}

async function importRecipe(url: string): Promise<{ default?: unknown }> {
  try {
    return await import(url);
  } catch (cause) {
    // zx's own words for a command that did not start have no errno to tell.
    const why = cause instanceof zx!.ProcessOutput && cause.cause ? cause.cause : cause;
    throw new KilnError('E_RECIPE_SCRIPT', `the recipe cannot be loaded: ${describe(why)}`, {
      hint: 'docs/recipes-typescript.md says what a recipe may import and do',
    });
  }
}

function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { message, stack = '' } = error;
  // V8 puts the place of a syntax error before everything else.
  const [head = ''] = stack.split('\n    at ');
  const lines = stack.split('\n').filter((line) => /^ {4}at .*kiln-recipe:/.test(line));
  const text = error instanceof SyntaxError && head.includes(RECIPE_SCHEME) ? head : message;
  return [text, ...lines].join('\n').replaceAll(`${RECIPE_SCHEME}///`, '').slice(0, 8000);
}

async function serve(
  fd: number,
  processes: RemoteProcesses,
  onStep: (message: StepMessage) => Promise<void>,
): Promise<void> {
  processes.areAnswered = true;
  const decoder = new FrameDecoder();
  const parent = new Socket({ fd, readable: true, writable: false });
  for await (const chunk of parent) {
    for (const value of decoder.push(chunk as Buffer)) {
      const message = value as ParentMessage;
      if (message.type === 'step') {
        onStep(message).catch((error: Error) => parent.destroy(error));
      } else processes.find(message.id)?.receive(message);
    }
  }
}

async function outcome(loaded: Zx, work: () => unknown): Promise<{ failure?: StepFailure }> {
  try {
    await work();
    return {};
  } catch (error) {
    const cut = (text: string) => text.slice(0, 8000);
    if (error instanceof loaded.ProcessOutput) {
      const { exitCode, signal, message } = error;
      return { failure: { message: cut(message), exitCode, signal, isCommand: true } };
    }
    if (!(error instanceof Error)) {
      return { failure: { message: cut(String(error)), isCommand: false } };
    }
    return {
      failure: { message: cut(error.message), stack: describe(error), isCommand: false },
    };
  }
}
