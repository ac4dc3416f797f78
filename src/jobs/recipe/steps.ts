/** Running the steps of a recipe, one after the other, within their limits of time. */
import { constants } from 'node:os';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import type { RecipeStep } from '../../recipe/build-recipe.ts';
import { Clock, type CommandEnd, GRACE, type TimeLimits } from '../../sandbox/door/supervise.ts';
import type { RecipeSandbox } from './recipe-sandbox.ts';
import type { CommandProcess } from './relayed-command.ts';
import type { FailedStep, HostShell } from './request.ts';
import type { SandboxShell, SpawnMessage, StepFailure } from './script-protocol.ts';
import type { ScriptSession } from './script-session.ts';

/** Lines of a failed command that are shown. */
const SHOWN_LINES = 40;

export interface StepEnd extends CommandEnd {
  readonly failure: FailedStep | undefined;
}

/** What the steps of one recipe have in common. */
export interface StepContext {
  readonly sandbox: RecipeSandbox;
  readonly shell: SandboxShell;
  /** The recipe's process; undefined where all steps are scripts. */
  readonly session: ScriptSession | undefined;
  readonly onOutput: (chunk: Buffer) => void;
  readonly signal: AbortSignal;
  /** Undefined: the recipe may run nothing on the host. */
  readonly host: HostShell | undefined;
}

/** Runs one step to its end; nothing that it started is left. Throws the signal's reason. */
export async function runStep(
  step: RecipeStep,
  index: number,
  limits: TimeLimits,
  context: StepContext,
): Promise<StepEnd> {
  context.signal.throwIfAborted();
  const { sandbox, signal } = context;
  const kill = () => sandbox.sandbox.killAll();
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
  { sandbox, shell, onOutput }: StepContext,
): Promise<StepEnd> {
  const end = await sandbox.execute(
    {
      // One pipe for both streams: in a log, an error belongs after what led to it.
      argv: [shell.path, '-c', `${shell.prefix} exec 2>&1\n${script}`],
      env: step.env,
      workdir: step.workdir,
      user: step.user,
      network: step.network,
    },
    limits,
    onOutput,
  );
  const failed = end.exitCode !== 0 || end.timeLimit !== null;
  const failure = failed ? failedStep(step, end, script, end.output.lines()) : undefined;
  const { exitCode, signal, timeLimit } = end;
  return { exitCode, signal, timeLimit, failure };
}

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
  const { sandbox, shell, session } = context;
  if (session === undefined) throw new KilnError('E_INTERNAL', 'a function without its recipe');
  const onHost = new Set<CommandProcess>();
  const endOnHost = () => {
    for (const command of onHost) command.kill(constants.signals.SIGKILL);
  };
  const givenUp = deferred<undefined>();
  let late: NodeJS.Timeout | undefined;
  const giveUp = () => {
    // A function that does not end with its commands is left behind; the recipe ends with it.
    late = setTimeout(() => givenUp.resolve(undefined), GRACE);
  };
  using clock = new Clock(limits, () => {
    endOnHost();
    sandbox.sandbox.killAll().then(giveUp, giveUp);
  });
  let failed: FailedCommand | undefined;
  const userAndNetwork = { user: step.user, network: step.network };
  const start = async (message: SpawnMessage) => {
    if (message.where === 'host') {
      if (context.host === undefined) throw new KilnError('E_INTERNAL', '$host without a host');
      const command = await context.host.start(message);
      onHost.add(command);
      command.once('close', () => onHost.delete(command));
      return command;
    }
    const { argv, env, cwd } = message;
    const { process, output } = await sandbox.start({ argv, env, workdir: cwd, ...userAndNetwork });
    clock.watch(process);
    process.once('exit', (exitCode, signal) => {
      if (exitCode === 0) return;
      // Behind `sh -c` is what the recipe wrote.
      const command = argv[1] === '-c' ? (argv[2] ?? '') : argv.join(' ');
      const shown = command.startsWith(shell.prefix) ? command.slice(shell.prefix.length) : command;
      process.once('close', () => {
        failed = { command: shown.trim(), lines: output.lines(), exitCode, signal };
      });
    });
    return process;
  };
  const message = {
    index,
    shell,
    workdir: resolveIn(sandbox.workdir, step.workdir),
    env: { ...sandbox.environment, ...step.env },
  };
  const failure = await Promise.race([session.runStep(message, start), givenUp.promise])
    .catch((error: unknown) => {
      // The sandbox's end with it; kiln would wait for these.
      endOnHost();
      throw error;
    })
    .finally(() => clearTimeout(late));
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
