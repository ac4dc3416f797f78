import type {
  Ended as EndedReply,
  ExecuteParameters,
  Failure,
  RunParameters,
  RunReply,
} from '../../api/io-kiln.ts';
import { checkPatterns } from '../../artifacts/collect.ts';
import { heldResults, runRequest } from '../../cli/options/sandbox-options.ts';
import { commandStatus, exitStatus, KILN_FAILED, noteFailure } from '../../cli/output/errors.ts';
import { admit } from '../../cli/users/user-guard.ts';
import type { Call } from '../../daemon/call.ts';
import { defined } from '../../defined.ts';
import type { Engine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { openExistingImage, pickImage } from '../../image/open.ts';
import type { LeasedImage } from '../../image/store/images.ts';
import { imageFacts } from '../../image/store/manifest.ts';
import { wholeCommand } from '../../jobs/run/plan.ts';
import type { RunRequest } from '../../jobs/run/request.ts';
import { resultOfFailure, resultOfRun } from '../../jobs/run/result.ts';
import { type RunHooks, type RunReport, run } from '../../jobs/run/run.ts';
import { Timeline } from '../../jobs/run/timeline.ts';
import type { SandboxOptions } from '../../options/sandbox.ts';
import { deferred } from '../../promise.ts';
import { writeResult } from '../../report/write.ts';
import type { CommandEnd, Ended } from '../../sandbox/door/supervise.ts';
import { type LeasedStack, leaseFrom } from '../../snapshot/stack.ts';
import { isShortRun } from '../short.ts';
import { ANSWERED, type Answer, type CallContext } from './context.ts';
import { admittedImage, checkBase64, sandboxOptions } from './options.ts';
import { CommandStdio } from './stdio.ts';

/** Runs one command. */
export const answerRun: Answer<'Run'> = async (parameters, context) => {
  const { call, caller, daemon } = context;
  const { argv, terminal } = parameters;
  needCommand(argv);
  needMore(call, parameters);
  checkBase64('input', parameters.input);
  const { options, command } = sandboxOptions(parameters, caller);
  const { image: named } = parameters;
  const given = { ...options, ...defined({ image: named }) };
  const isShort = given.resultDirectory === undefined && isShortRun(given, caller.user);
  if (daemon !== undefined && !isShort) return await daemon.work(call);
  await admit(command, context.caller, { words: 'run' }, []);
  const wanted = named && (await admittedImage(named, context));
  let request = runRequest(options, argv, command, caller.ids);
  await using engine = context.openEngine();
  const { renamed } = engine;
  const timeline = new Timeline();
  let sandbox: string | undefined;
  let used: RunReport['image'] | undefined;
  let stdio: CommandStdio | undefined;
  try {
    request = { ...request, ...(await heldResults(options, caller)) };
    checkPatterns(request.artifacts);
    timeline.enter('image');
    await using image = await takeImage(engine, wanted, context, options);
    if (image === undefined) return (await daemon?.work(call)) ?? ANSWERED;
    const { id } = image.manifest;
    used = imageFacts(image.manifest);
    request = { ...request, ...wholeCommand(image.manifest, argv, ''), image: id };
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
    const report = await run(engine, image, request, hooks, timeline);
    if (daemon === undefined) await report.remove();
    else {
      const gone = deferred<void>();
      context.hold(gone.promise);
      daemon.removeLater(() => report.remove().finally(gone.resolve));
    }
    return { ...stdio?.collected, result: await resultOf(request, report, renamed) };
  } catch (error) {
    if (request.resultDirectory !== undefined) {
      const { course, current, failed: phase = current } = timeline;
      const failure = { error, ...course, phase, sandbox, image: used };
      const about = { request, exitStatus: exitStatus(error), renamed };
      const result = resultOfFailure(about, failure);
      // The failure of the command is thrown, not one of writing its result.
      await writeResult(request.resultDirectory, result, request.caller).catch(() => undefined);
    }
    throw error;
  } finally {
    stdio?.[Symbol.dispose]();
  }
};

async function resultOf(
  request: RunRequest,
  report: RunReport,
  renamed: <Value>(value: Value) => Value,
): Promise<NonNullable<RunReply['result']>> {
  const { failure, collection, warnings, sandbox, image } = report;
  const ended = endOf(report.end, report.limitHit);
  const status = ended.exitStatus === 0 && failure !== undefined ? KILN_FAILED : ended.exitStatus;
  noteFailure(failure);
  const result = resultOfRun({ request, exitStatus: status, renamed }, report);
  if (request.resultDirectory !== undefined) {
    await writeResult(request.resultDirectory, result, request.caller);
  }
  return {
    ended: { ...ended, exitStatus: status },
    ...{ sandbox, image },
    failure: failure && failureOf(failure),
    artifacts: filesOf(collection),
    warnings: warnings.map(({ message }) => message),
    report: { ...result },
  };
}

export function filesOf(collection: RunReport['collection']): string[] {
  return (collection?.artifacts ?? []).flatMap(({ path, type }) => (type === 'file' ? [path] : []));
}

export function endOf(end: CommandEnd, limit: Ended['limitHit']): EndedReply {
  return {
    ...(end.signal === null ? { exitCode: end.exitCode ?? 0 } : { signal: end.signal }),
    limit: limit ?? undefined,
    exitStatus: commandStatus(end),
  };
}

export function failureOf({ code, message, hint }: KilnError): Failure {
  return { code, message, hint };
}

/** Undefined where a worker must make it first. */
export async function takeImage(
  engine: Engine,
  wanted: string | undefined,
  context: CallContext,
  { fromSnapshot: from }: SandboxOptions,
): Promise<(LeasedImage & Partial<LeasedStack>) | undefined> {
  if (from !== undefined && wanted !== undefined) {
    throw new KilnError('E_ARGUMENT', 'fromSnapshot: there is an image as well', {
      hint: 'leave image out: the snapshot has its own',
    });
  }
  if (from !== undefined) return await leaseFrom(engine, from);
  if (context.daemon === undefined) {
    const { onProgress, call, storeChanged } = context;
    return await pickImage(engine, wanted, { onProgress, signal: call.signal, storeChanged });
  }
  return await openExistingImage(engine, wanted, '/');
}

export function needImage(named: string | undefined, { fromSnapshot }: SandboxOptions): void {
  if (named !== undefined || fromSnapshot !== undefined) return;
  throw new KilnError('E_ARGUMENT', 'image: there is none, and no fromSnapshot', {
    hint: 'name one of them',
  });
}

export function needCommand([program]: readonly string[]): void {
  if (program) return;
  throw new KilnError('E_ARGUMENT', 'argv: it names no program', {
    hint: 'name a program first',
  });
}

export function needMore(
  { head }: Call,
  { interactive, terminal }: RunParameters | ExecuteParameters,
): void {
  if (head.more || (interactive !== true && terminal === undefined)) return;
  throw new KilnError('E_ARGUMENT', 'interactive and terminal are for calls with `more`', {
    hint: 'a call without `more` has one reply, when the command has ended',
  });
}
