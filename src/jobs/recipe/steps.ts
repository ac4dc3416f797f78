import { addAbortListener } from 'node:events';
import { constants } from 'node:os';
import { posix } from 'node:path';
import { KilnError } from '../../errors.ts';
import { deferred } from '../../promise.ts';
import { type BuildRecipe, type RecipeStep, stepsOf } from '../../recipe/build-recipe.ts';
import { Clock, type CommandEnd, GRACE, type TimeLimits } from '../../sandbox/door/supervise.ts';
import type { Timeline } from '../run/timeline.ts';
import type { RecipeSandbox } from './recipe-sandbox.ts';
import type { CommandProcess } from './relayed-command.ts';
import type { FailedStep, HostShell, RecipeHooks } from './request.ts';
import type { SandboxShell } from './script-protocol.ts';
import type { ScriptSession, SpawnMessage, StepFailure } from './script-session.ts';

const SHOWN_LINES = 40;

interface StepEnd extends CommandEnd {
  readonly failure: FailedStep | undefined;
}

interface StepContext {
  readonly sandbox: RecipeSandbox;
  readonly shell: SandboxShell;
  readonly session: ScriptSession | undefined;
  readonly onOutput: (chunk: Buffer) => void;
  readonly onStep: RecipeHooks['onStep'];
  readonly signal: AbortSignal;
  readonly host: HostShell | undefined;
}

interface StepRun extends StepContext {
  readonly step: RecipeStep;
  readonly index: number;
  readonly limits: TimeLimits;
}

/**
 * Runs the steps of a recipe up to the first that fails.
 * @param time that of all steps together, and that of each without output
 */
export async function runSteps(
  recipe: BuildRecipe,
  { timeout = Number.POSITIVE_INFINITY, ...time }: TimeLimits,
  timeline: Timeline,
  context: StepContext,
): Promise<{ readonly end: CommandEnd; readonly failedStep: FailedStep | undefined }> {
  const { onStep } = context;
  const steps = stepsOf(recipe);
  const begun = performance.now();
  for (const [index, step] of steps.entries()) {
    const { name } = step;
    const event = { name, number: index + 1, count: steps.length };
    onStep?.({ ...event, event: 'start' });
    const start = performance.now();
    const left = Math.max(1, timeout - (start - begun));
    const shortest = Math.min(step.timeout ?? left, left);
    const limits = Number.isFinite(shortest) ? { ...time, timeout: shortest } : time;
    timeline.enter(`step ${name}`);
    const { failure, ...end } = await runStep({ ...context, step, index, limits });
    timeline.leave();
    const milliseconds = performance.now() - start;
    onStep?.({ ...event, event: failure === undefined ? 'finish' : 'fail', milliseconds });
    if (failure !== undefined) return { end, failedStep: failure };
  }
  return { end: { exitCode: 0, signal: null, timeLimit: null }, failedStep: undefined };
}

async function runStep(run: StepRun): Promise<StepEnd> {
  const { sandbox, signal, step } = run;
  signal.throwIfAborted();
  const kill = () => sandbox.sandbox.killAll();
  const abort = () => void kill().catch(() => undefined);
  using _abort = addAbortListener(signal, abort);
  try {
    const end =
      step.script === undefined ? await runFunction(run) : await runScript(run, step.script);
    signal.throwIfAborted();
    await kill();
    return end;
  } catch (error) {
    if (!signal.aborted) await kill().catch(() => undefined);
    throw error;
  }
}

async function runScript(run: StepRun, script: string): Promise<StepEnd> {
  const { sandbox, shell, onOutput, step, limits } = run;
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

async function runFunction(run: StepRun): Promise<StepEnd> {
  const { sandbox, shell, session, step, index, limits } = run;
  const onHost = new Set<CommandProcess>();
  const endOnHost = () => {
    for (const command of onHost) command.kill(constants.signals.SIGKILL);
  };
  const givenUp = deferred<undefined>();
  let late: NodeJS.Timeout | undefined;
  const giveUp = () => {
    // A function that does not end with its commands is abandoned: the recipe ends with this step.
    late = setTimeout(() => givenUp.resolve(undefined), GRACE);
  };
  using clock = new Clock(limits, () => {
    endOnHost();
    sandbox.sandbox.killAll().then(giveUp, giveUp);
  });
  let failed: FailedCommand | undefined;
  const gone = deferred<never>();
  const userAndNetwork = { user: step.user, network: step.network };
  const start = async (message: SpawnMessage) => {
    if (message.where === 'host') {
      // The session refuses it where there is none.
      const command = await run.host!.start(message);
      onHost.add(command);
      command.once('close', () => onHost.delete(command));
      return command;
    }
    const { argv, env, cwd } = message;
    const { process, output } = await sandbox.start({ argv, env, workdir: cwd, ...userAndNetwork });
    clock.watch(process);
    process.once('gone', gone.reject);
    process.once('exit', (exitCode, signal) => {
      if (exitCode === 0) return;
      const command = argv[1] === '-c' ? (argv[2] ?? '') : argv.join(' ');
      const shown = command.startsWith(shell.prefix) ? command.slice(shell.prefix.length) : command;
      process.once('close', () => {
        failed = { command: shown.trim(), lines: output.lines(), exitCode, signal };
      });
    });
    return process;
  };
  const message = {
    type: 'step',
    index,
    shell,
    workdir: posix.resolve(sandbox.workdir, step.workdir ?? '.'),
    env: { ...sandbox.environment, ...step.env },
  } as const;
  // Only a script's recipe has functions, and it has a session.
  const ends = [session!.runStep(message, start), givenUp.promise, gone.promise];
  const failure = await Promise.race(ends)
    .catch((error: unknown) => {
      // Commands in the sandbox end with it; kiln would wait for those on the host.
      endOnHost();
      throw error;
    })
    .finally(() => clearTimeout(late));
  const end = endOf(failure, clock.hit);
  if (failure === undefined && clock.hit === null) return { ...end, failure: undefined };
  return { ...end, failure: failedFunction(step, end, failure, failed) };
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
