/** Running the steps of a recipe, one after the other, within their limits of time. */

import { constants } from 'node:os';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import type { RecipeStep } from '../../recipe/build-recipe.ts';
import { listenToOutput } from '../../sandbox/door/output.ts';
import { type CommandEnd, supervise, type TimeLimits } from '../../sandbox/door/supervise.ts';
import { startOnHost } from './host-command.ts';
import type { RecipeBox } from './recipe-box.ts';
import type { CommandProcess } from './relayed-command.ts';
import type { FailedStep } from './request.ts';
import type { BoxShell, SpawnMessage, StepFailure } from './script-protocol.ts';
import type { ScriptSession } from './script-session.ts';

/** How long what is out of time may take to end by itself, milliseconds. */
const GRACE = 2000;
/** Lines of a failed command that are shown. */
const SHOWN_LINES = 40;

/** How a step ended. */
export interface StepEnd extends CommandEnd {
  readonly failure: FailedStep | undefined;
}

/** What the steps of one recipe have in common. */
export interface StepContext {
  readonly box: RecipeBox;
  readonly shell: BoxShell;
  /** The recipe's process; undefined where all steps are scripts. */
  readonly session: ScriptSession | undefined;
  readonly onOutput: (chunk: Buffer) => void;
  readonly signal: AbortSignal;
  /** Who runs what `$host` runs. */
  readonly caller: { readonly uid: number; readonly gid: number };
}

/** Runs one step to its end; nothing that it started is left. Throws the signal's reason. */
export async function runStep(
  step: RecipeStep,
  index: number,
  limits: TimeLimits,
  context: StepContext,
): Promise<StepEnd> {
  context.signal.throwIfAborted();
  const { box, signal } = context;
  const kill = () => box.killAll();
  const abort = () => void kill().catch(() => undefined);
  signal.addEventListener('abort', abort, { once: true });
  try {
    const end =
      step.script === undefined
        ? await runFunction(step, index, limits, context)
        : await runScript(step, step.script, limits, context);
    signal.throwIfAborted();
    return end;
  } finally {
    signal.removeEventListener('abort', abort);
    if (!signal.aborted) await kill();
  }
}

async function runScript(
  step: RecipeStep,
  script: string,
  limits: TimeLimits,
  { box, shell, onOutput }: StepContext,
): Promise<StepEnd> {
  const { process, tail } = await box.start({
    // One pipe for both streams: in a log, an error belongs after what led to it.
    argv: [shell.path, '-c', `${shell.prefix} exec 2>&1\n${script}`],
    env: step.env,
    workdir: step.workdir,
    user: step.user,
    network: step.network,
  });
  process.stdin.end();
  const kill = () => box.killAll();
  const output = listenToOutput(process, onOutput, kill);
  const end = await supervise(process, limits, 'ended', kill);
  output.rethrow();
  const failed = end.exitCode !== 0 || end.timeLimit !== null;
  const failure = failed ? failedStep(step, end, script, tail.lines()) : undefined;
  return { ...end, failure };
}

/** The command of a function that failed last. */
interface FailedCommand {
  readonly command: string;
  readonly lines: readonly string[];
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
}

async function runFunction(
  step: RecipeStep,
  index: number,
  limits: TimeLimits,
  context: StepContext,
): Promise<StepEnd> {
  const { box, shell, session } = context;
  if (session === undefined) throw new KilnError('E_INTERNAL', 'a function without its recipe');
  const onHost = new Set<CommandProcess>();
  const endOnHost = () => {
    for (const command of onHost) command.kill(constants.signals.SIGKILL);
  };
  using clock = new StepClock(limits, () => {
    endOnHost();
    return box.killAll();
  });
  let failed: FailedCommand | undefined;
  const userAndNetwork = { user: step.user, network: step.network };
  const start = async (message: SpawnMessage) => {
    if (message.where === 'host') {
      const command = await startOnHost(message, context.caller);
      onHost.add(command);
      command.once('close', () => onHost.delete(command));
      return command;
    }
    const { argv, env, cwd } = message;
    const { process, tail } = await box.start({ argv, env, workdir: cwd, ...userAndNetwork });
    clock.watch(process);
    process.once('exit', (exitCode, signal) => {
      if (exitCode === 0) return;
      // Behind `sh -c` is what the recipe wrote.
      const command = argv[1] === '-c' ? (argv[2] ?? '') : argv.join(' ');
      const shown = command.startsWith(shell.prefix) ? command.slice(shell.prefix.length) : command;
      process.once('close', () => {
        failed = { command: shown.trim(), lines: tail.lines(), exitCode, signal };
      });
    });
    return process;
  };
  const message = {
    index,
    shell,
    workdir: resolveIn(box.workdir, step.workdir),
    env: { ...box.environment, ...step.env },
  };
  const failure = await Promise.race([session.runStep(message, start), clock.over]).catch(
    (error: unknown) => {
      // The sandbox's end with it; kiln would wait for these.
      endOnHost();
      throw error;
    },
  );
  const end = endOf(failure, clock.hit);
  if (failure === undefined && clock.hit === null) return { ...end, failure: undefined };
  return { ...end, failure: failedFunction(step, end, failure, failed) };
}

function resolveIn(base: string, path = '.'): string {
  return path.startsWith('/') ? path : `${base}/${path}`;
}

/** An error that no command is behind counts as the exit status 1. */
function endOf(failure: StepFailure | undefined, timeLimit: CommandEnd['timeLimit']): CommandEnd {
  if (failure === undefined)
    return { exitCode: timeLimit === null ? 0 : null, signal: null, timeLimit };
  const signal = (failure.signal ?? null) as NodeJS.Signals | null;
  const exitCode = signal === null ? failure.exitCode || 1 : null;
  return { exitCode, signal, timeLimit };
}

function failedFunction(
  step: RecipeStep,
  end: CommandEnd,
  failure: StepFailure | undefined,
  failed: FailedCommand | undefined,
): FailedStep {
  const same =
    failed !== undefined &&
    (end.timeLimit !== null || (failed.exitCode ?? 1) === (failure?.exitCode ?? 1));
  if (failure === undefined || (failure.isCommand && same)) {
    return failedStep(step, end, failed?.command, failed?.lines ?? []);
  }
  const lines = (failure.stack ?? failure.message).split('\n');
  const error = new KilnError('E_STEP_FAILED', `step ${step.name} failed: ${failure.message}`, {
    details: { step: step.name },
  });
  return { name: step.name, command: undefined, lastLines: lines.slice(0, SHOWN_LINES), error };
}

function failedStep(
  step: RecipeStep,
  end: CommandEnd,
  command: string | undefined,
  lines: readonly string[],
): FailedStep {
  const how =
    end.timeLimit === 'timeout'
      ? 'it was out of time'
      : end.timeLimit === 'stall'
        ? 'it wrote nothing for too long'
        : end.signal === null
          ? `exit status ${end.exitCode}`
          : `ended by ${end.signal}`;
  const { exitCode, signal, timeLimit } = end;
  const details = { step: step.name, exitCode, signal, timeLimit, ...(command && { command }) };
  return {
    name: step.name,
    command,
    lastLines: lines.slice(-SHOWN_LINES),
    error: new KilnError('E_STEP_FAILED', `step ${step.name} failed: ${how}`, { details }),
  };
}

/** The limits of time of a step that is a function: its commands are ended, then it is given up. */
class StepClock implements Disposable {
  hit: CommandEnd['timeLimit'] = null;
  /** Resolves, with nothing, when a step that is out of time has not ended by itself. */
  readonly over: Promise<undefined>;
  readonly #giveUp = deferred<undefined>();
  readonly #kill: () => Promise<void>;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #stall: NodeJS.Timeout | undefined;
  readonly #running = new Set<{ kill(signal: NodeJS.Signals): boolean }>();

  constructor({ timeout, stallTimeout }: TimeLimits, kill: () => Promise<void>) {
    this.over = this.#giveUp.promise;
    this.#kill = kill;
    if (timeout !== undefined) this.#timers.add(setTimeout(() => this.#end('timeout'), timeout));
    if (stallTimeout === undefined) return;
    this.#stall = setTimeout(() => this.#end('stall'), stallTimeout);
    this.#timers.add(this.#stall);
  }

  /** Output of this command shows that the step goes on. */
  watch(command: Awaited<ReturnType<RecipeBox['start']>>['process']): void {
    this.#running.add(command);
    const alive = () => void this.#stall?.refresh();
    alive();
    command.stdout.on('data', alive);
    command.stderr.on('data', alive);
    command.once('exit', () => this.#running.delete(command));
  }

  #end(limit: 'timeout' | 'stall'): void {
    if (this.hit !== null) return;
    this.hit = limit;
    for (const command of this.#running) command.kill('SIGTERM');
    const kill = async () => {
      await this.#kill().catch(() => undefined);
      // A function that does not end with its commands is left behind; the recipe ends with it.
      this.#timers.add(setTimeout(() => this.#giveUp.resolve(undefined), GRACE));
    };
    this.#timers.add(setTimeout(kill, GRACE));
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }
}
