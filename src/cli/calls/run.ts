import type { Ended as EndedReply, Failure, RunReply } from '../../api/io-kiln.ts';
import { KilnError } from '../../errors.ts';
import { openExistingImage } from '../../image/open.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import type { RunRequest } from '../../jobs/run/request.ts';
import { resultOfFailure, resultOfRun } from '../../jobs/run/result.ts';
import { type RunHooks, type RunReport, run } from '../../jobs/run/run.ts';
import { Timeline } from '../../jobs/run/timeline.ts';
import { writeResult } from '../../report/write.ts';
import type { Ended } from '../../sandbox/door/io.ts';
import type { CommandEnd } from '../../sandbox/door/supervise.ts';
import type { Engine } from '../../sandbox/open.ts';
import { pickImage } from '../images/pick-image.ts';
import { isProfileFile, runRequest } from '../options/sandbox-options.ts';
import { commandStatus, exitStatus, KILN_FAILED } from '../output/exit-status.ts';
import { RunElsewhere } from '../run.ts';
import type { Answer, CallContext } from './context.ts';
import { sandboxOptions } from './options.ts';
import { CommandStdio } from './stdio.ts';

/** Runs one command. @throws RunElsewhere before anything has happened where it is work for a worker */
export const answerRun: Answer<'Run'> = async (parameters, context) => {
  const { call, caller, daemon } = context;
  const { argv, terminal, interactive, surroundings } = parameters;
  needCommand(argv);
  if ((interactive === true || terminal !== undefined) && !call.head.more) throw needsMore();
  const long = [
    parameters.copyIn,
    parameters.resultDirectory,
    parameters.keep,
    surroundings?.egress,
  ];
  if (daemon !== undefined && long.some((value) => value !== undefined)) throw new RunElsewhere();
  const { options, command } = sandboxOptions(parameters, caller);
  // A file of the caller's has to be read and compiled.
  if (daemon !== undefined && isProfileFile(options.seccomp)) throw new RunElsewhere();
  let request = runRequest(options, '', argv, command, caller);
  await using engine = context.openEngine();
  const timeline = new Timeline();
  let sandbox: string | undefined;
  let used: RunReport['image'] | undefined;
  let stdio: CommandStdio | undefined;
  try {
    await using image = await takeImage(engine, parameters.image, context);
    const { id, name } = image.manifest;
    used = { id, name };
    request = { ...request, image: id };
    const hooks: RunHooks = {
      signal: call.signal,
      terminal,
      entered: (entered) => {
        sandbox = entered;
      },
      started: (process, kill) => {
        call.reply({
          started: { sandbox: sandbox ?? '', process: call.head.process, pid: process.pid },
        });
        stdio = new CommandStdio(process, call, kill, parameters);
      },
      ended: () => call.signal,
      warning: ({ message }) => context.warn(message),
    };
    const report = await run(engine, request, hooks, timeline);
    if (daemon === undefined) await report.removed;
    else daemon.removing(report.removed);
    return { ...stdio?.collected, result: await resultOf(request, report) };
  } catch (error) {
    if (!(error instanceof RunElsewhere) && request.resultDirectory !== undefined) {
      const { course, current, failed: phase = current } = timeline;
      const failure = { error, ...course, phase, sandbox: sandbox, image: used };
      const about = { request, exitStatus: exitStatus(error) };
      // What went wrong goes before what goes wrong with the report of it.
      await writeResult(
        request.resultDirectory,
        resultOfFailure(about, failure),
        request.caller,
      ).catch(() => undefined);
    }
    throw error;
  } finally {
    stdio?.[Symbol.dispose]();
  }
};

async function resultOf(
  request: RunRequest,
  report: RunReport,
): Promise<NonNullable<RunReply['result']>> {
  const { failure, collection, warnings, sandbox, image } = report;
  const ended = endOf(report.end, report.limitHit);
  const status = ended.exitStatus === 0 && failure !== undefined ? KILN_FAILED : ended.exitStatus;
  const result = resultOfRun({ request, exitStatus: status }, report);
  if (request.resultDirectory !== undefined) {
    await writeResult(request.resultDirectory, result, request.caller);
  }
  return {
    ended: { ...ended, exitStatus: status },
    ...{ sandbox, image },
    ...(failure === undefined ? {} : { failure: failureOf(failure) }),
    artifacts: (collection?.artifacts ?? []).flatMap(({ path, type }) =>
      type === 'file' ? [path] : [],
    ),
    warnings: warnings.map(({ message }) => message),
    report: { ...result },
  };
}

/** How a command ended, as the interface has it. */
export function endOf(end: CommandEnd, limit: Ended['limitHit']): EndedReply {
  return {
    ...(end.signal === null ? { exitCode: end.exitCode ?? 0 } : { signal: end.signal }),
    ...(limit === null ? {} : { limit }),
    exitStatus: commandStatus(end),
  };
}

export function failureOf({ code, message, hint }: KilnError): Failure {
  return { code, message, hint };
}

/**
 * The image that is meant; one that is to be made is work for a worker.
 * @throws RunElsewhere, and what openImage() throws
 */
export async function takeImage(
  engine: Engine,
  wanted: string | undefined,
  context: CallContext,
): Promise<LeasedImage> {
  if (context.daemon === undefined) {
    const { onProgress, call } = context;
    const storeChanged = () => context.storeChanged();
    return await pickImage(engine, wanted, { onProgress, signal: call.signal, storeChanged });
  }
  const image = wanted === undefined ? undefined : await openExistingImage(engine, wanted, '/');
  if (image === undefined) throw new RunElsewhere();
  return image;
}

/** @throws KilnError E_ARGUMENT */
export function needCommand([program]: readonly string[]): void {
  if (program) return;
  throw new KilnError('E_ARGUMENT', 'argv: the list is empty', {
    hint: 'name a program first',
  });
}

export function needsMore(): KilnError {
  return new KilnError('E_ARGUMENT', 'interactive and terminal are for calls with `more`', {
    hint: 'a call without `more` has one reply, when the command has ended',
  });
}
