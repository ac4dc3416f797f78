/**
 * Answers calls of the API: short ones in the daemon's own thread, all others in a worker. Long, because both ways
 * share what a call is, whose it is, and how its replies end.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { CommanderError } from 'commander';
import { checkParameters, InvalidParameter, METHODS } from '../../api/interface.ts';
import type { Methods } from '../../api/io-kiln.ts';
import { actionOf, actorOf } from '../../cli/caller/action.ts';
import type { OptionCaller, PathCaller } from '../../cli/caller/caller.ts';
import { NO_PATHS } from '../../cli/caller/no-paths.ts';
import { exitStatus, noteFailure, reasonsOf } from '../../cli/output/errors.ts';
import { type Call, SERVICE_ERROR } from '../../daemon/call.ts';
import type { Engine, EngineOptions, OwnEngine } from '../../engine.ts';
import { acting, currentAction } from '../../events/action.ts';
import { knownFailure } from '../../host/calls/system-error.ts';
import { ownOpener } from '../../host/files/opener.ts';
import { takeCallersUmask } from '../../host/process/own-umask.ts';
import { withWaits } from '../../host/process/wait-for.ts';
import { packageRoot } from '../../host/state/package-root.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { endTrace } from '../../host/trace/trace.ts';
import { requireSameAccount } from '../../users/account.ts';
import type { CallerPaths } from '../../users/caller-paths.ts';
import { type CallerUser, forbiddenError } from '../../users/configuration.ts';
import { HeldPaths } from '../../users/held-paths.ts';
import { JobFolder } from '../../users/job-folder.ts';
import { isShortCall } from '../short.ts';
import { beginJob, type Shares, userOf } from '../users.ts';
import {
  ANSWERED,
  type Answer,
  type CallContext,
  type CallsState,
  type DaemonState,
  type Name,
  progressTo,
} from './context.ts';
import { methods } from './methods.ts';
import { FIELDS } from './options.ts';

const SERVICE = 'org.varlink.service';
const KILN = 'io.kiln';

const FAILED = 'io.kiln.Failed';

/** The umask for files that a call makes; a call has none of its own. */
const UMASK = 0o022;

export interface AnsweringProcess {
  readonly env: OptionCaller['env'];
  openEngine(caller: PathCaller, options?: EngineOptions): OwnEngine;
  readonly storeChanged: () => void;
  tell(error: unknown): void;
}

export interface AnsweringDaemon extends AnsweringProcess {
  readonly users: Shares;
  readonly engine: Engine;
  readonly state: CallsState;
  /** The caller is root, or a member of the group. */
  readonly isServed: boolean;
  work(call: Call): Promise<void>;
}

export async function answerCall(call: Call, daemon: AnsweringDaemon): Promise<void> {
  const { method, identity } = call.head;
  const name = method.slice(method.lastIndexOf('.') + 1);
  const from = method.slice(0, -name.length - 1);
  if (from === SERVICE) return describe(call, name);
  if (from !== KILN) return call.fail(SERVICE_ERROR.interfaceNotFound, { interface: from });
  if (!isMethod(name)) return call.fail(SERVICE_ERROR.methodNotFound, { method });
  if (!daemon.isServed && name !== 'GetVersion') {
    return call.fail(SERVICE_ERROR.permissionDenied);
  }
  const { paths } = daemon.engine;
  const actor = () => actorOf(paths, identity.uid, identity);
  await acting({ paths, actor, by: 'api' }, () => answerKnown(call, name, daemon));
}

async function answerKnown(
  call: Call,
  name: keyof typeof methods,
  daemon: AnsweringDaemon,
): Promise<void> {
  const { process: id, identity } = call.head;
  currentAction()?.isFor(commandOf(name));
  const { calls } = daemon.state;
  calls.set(id, call);
  const held: Promise<void>[] = [];
  let job: Disposable | undefined;
  try {
    let user = identity.uid === 0 ? undefined : userOf(identity, daemon.users.configuration);
    if (user !== undefined) await requireSameAccount(daemon.engine.paths, user.uid);
    const words = user === undefined ? [] : rulesOf(name);
    const parameters = checkParameters(name, call.head.parameters);
    const isShort = isShortCall(name, call);
    if (user !== undefined && words.length > 0) {
      const say = (what: string) => {
        if (tells(name, 'progress')) call.reply({ progress: { what } });
      };
      job = await beginJob(words, user, { isShort, say, signal: call.signal }, daemon);
      if (job === undefined) return;
      // Root may have changed it while the call waited.
      user = userOf(identity, daemon.users.configuration);
    }
    const context = { user, hold: (until: Promise<void>) => void held.push(until) };
    if (isShort) await answerHere(call, name, parameters, daemon, context);
    else {
      // The worker tells of it.
      currentAction()?.handOver();
      await daemon.work(call);
    }
  } catch (error) {
    fail(call, error, daemon);
  } finally {
    calls.delete(id);
    Promise.allSettled(held).then(() => job?.[Symbol.dispose](), daemon.tell);
  }
}

/** The words of the command line whose rules a method has for users. @throws KilnError E_FORBIDDEN */
function rulesOf(name: keyof typeof methods): readonly string[] {
  const { rules } = methods[name];
  if (rules === undefined) throw forbiddenError(name, 'it is root’s');
  return rules === '' ? [] : rules.split(' ');
}

/** One connection of `kiln varlink` counts as one sandbox, whatever it keeps. @throws KilnError E_FORBIDDEN */
function refuseKept({ head: { parameters } }: Call): void {
  if (Object(parameters).keep === undefined) return;
  throw forbiddenError('keep by `kiln varlink`', 'a sandbox that is kept counts beside others', {
    hint: '`kiln run --keep` and `kiln build --keep` keep one',
  });
}

async function answerHere(
  call: Call,
  name: keyof typeof methods,
  parameters: object,
  daemon: AnsweringDaemon,
  { user, hold }: { readonly user: CallerUser | undefined; readonly hold: CallContext['hold'] },
): Promise<void> {
  const state: DaemonState = {
    ...daemon.state,
    part: (of, method, given) => answerPart(of, method, given, daemon),
    work: async (long) => {
      currentAction()?.handOver();
      await daemon.work(long);
      return ANSWERED;
    },
  };
  await using paths = user === undefined ? pathsOf(call, daemon.engine.paths) : NO_PATHS;
  currentAction()?.renamesBy((text) => paths.renamed(text));
  const caller = callerOf(call, daemon, { user, paths });
  await answer(call, name, parameters, { ...contextOf(call, daemon, caller, state), hold });
}

/** Nobody else is there to open what root names on the socket. */
function pathsOf(call: Call, state: StatePaths): CallerPaths {
  const { identity: owner } = call.head;
  return new HeldPaths({
    ...{ opener: ownOpener(owner), cwd: () => '/', owner },
    makeFolder: () => JobFolder.make(state),
    warn: ({ message: warning }) => call.reply({ warning }),
  });
}

async function answerPart<Method extends Name>(
  call: Call,
  method: Method,
  parameters: object,
  daemon: AnsweringDaemon,
): Promise<Methods[Method]['reply']> {
  const part = call.part(`${KILN}.${method}`, { ...parameters });
  await daemon.work(part);
  // Without a reply where the caller went before a worker had it.
  if (part.outcome === undefined) throw part.signal.reason;
  const reply: { error?: string; parameters?: object } = JSON.parse(
    part.outcome.toString().slice(0, -1),
  );
  if (reply.error !== undefined) throw new PartFailed(reply.error, reply.parameters ?? {});
  return (reply.parameters ?? {}) as Methods[Method]['reply'];
}

/** The status of the command that does the same. */
function statusOf(reply: object | typeof ANSWERED): number {
  const { result } = reply as { readonly result?: { readonly [Key in string]?: unknown } };
  const { exitStatus: status, ended } = Object(result);
  return Number(status ?? Object(ended).exitStatus ?? 0);
}

class PartFailed extends Error {
  readonly parameters: object;

  constructor(error: string, parameters: object) {
    super(error);
    this.parameters = parameters;
  }
}

/** In a worker. A user's results are delivered before the caller is told. */
export async function answerAlone(
  call: Call,
  place: AnsweringProcess,
  own: PathCaller,
): Promise<void> {
  takeCallersUmask(UMASK);
  await answerFor(call, place, callerOf(call, place, own));
}

/** Answers a call that came over a client, whose umask and files count. */
export async function answerForClient(
  call: Call,
  place: AnsweringProcess,
  caller: OptionCaller,
): Promise<void> {
  const { method } = call.head;
  const name = method.slice(method.lastIndexOf('.') + 1);
  if (method === `${SERVICE}.${name}`) return describe(call, name);
  if (method !== `${KILN}.${name}` || !isMethod(name)) {
    return call.fail(SERVICE_ERROR.methodNotFound, { method });
  }
  try {
    if (caller.user !== undefined) {
      rulesOf(name);
      refuseKept(call);
    }
  } catch (error) {
    return fail(call, error, place);
  }
  await answerFor(call, place, caller);
}

/** The words of the command that does the same. */
function commandOf(name: keyof typeof methods): string {
  return methods[name].does ?? methods[name].rules ?? '';
}

async function answerFor(call: Call, place: AnsweringProcess, caller: OptionCaller): Promise<void> {
  await acting(actionOf(caller, 'api'), () => answerIn(call, place, caller));
}

async function answerIn(call: Call, place: AnsweringProcess, caller: OptionCaller): Promise<void> {
  const context = contextOf(call, place, caller, undefined);
  const name = call.head.method.slice(KILN.length + 1) as keyof typeof methods;
  try {
    await answer(call, name, checkParameters(name, call.head.parameters), context);
  } catch (error) {
    fail(call, error, place, caller.paths);
  }
  endTrace(context.warn);
}

/** Parameters that say what a call works on, as the words of a command do, in their order. */
const SUBJECTS = 'sandbox from of image recipe sources snapshot name target paths'.split(' ');

function isMethod(name: string): name is keyof typeof methods {
  return Object.hasOwn(methods, name);
}

async function answer(
  call: Call,
  name: keyof typeof methods,
  parameters: object,
  context: CallContext,
): Promise<void> {
  const method = (await methods[name].load()) as Answer<Name>;
  // A process with other calls goes on waiting for those.
  const own = context.daemon === undefined ? { signal: call.signal } : {};
  const { paths } = context.caller;
  const given = parameters as Record<string, unknown>;
  const about = SUBJECTS.flatMap((field) => given[field] ?? []).map(String);
  currentAction()?.named(commandOf(name), about);
  let reply: object | typeof ANSWERED;
  try {
    reply = await withWaits({ say: context.warn, ...own }, () =>
      method(parameters as never, context),
    );
  } catch (error) {
    // What was made before the failure. The failure itself is what the caller is told.
    await paths.deliver().catch(() => undefined);
    throw error;
  }
  await paths.deliver();
  currentAction()?.exit(statusOf(reply));
  if (reply !== ANSWERED) call.end(paths.renamed(reply));
}

/** A caller without a client: whatever it names is named wholly. */
function callerOf({ head }: Call, { env }: AnsweringProcess, own: PathCaller): OptionCaller {
  const { uid, gid } = head.identity;
  return {
    ...{ env, ...own },
    environment: {},
    ids: { uid, gid },
    cwd: () => '/',
    variable: () => undefined,
  };
}

function tells(method: string, field: string): boolean {
  return METHODS[method]?.output.fields.some(({ name }) => name === field) === true;
}

function contextOf(
  call: Call,
  place: AnsweringProcess,
  caller: OptionCaller,
  daemon: DaemonState | undefined,
): CallContext {
  const warns = tells(call.head.method.slice(KILN.length + 1), 'warning');
  return {
    ...{ call, caller, daemon },
    openEngine: (options) => {
      // Whatever the caller may not do was refused before.
      currentAction()?.admitted();
      return place.openEngine(caller, options);
    },
    storeChanged: place.storeChanged,
    hold: () => undefined,
    warn: (text) => {
      if (warns) call.reply({ warning: caller.paths.renamed(text).replace(/^kiln: |\n$/g, '') });
    },
    onProgress: progressTo(call),
  };
}

/** The one of every Varlink service is as https://varlink.org/Service has it. */
function interfaceText(name: typeof KILN | typeof SERVICE): string {
  return readFileSync(join(packageRoot(), `src/api/${name}.varlink`), 'utf8');
}

function describe(call: Call, name: string): void {
  const { parameters, method } = call.head;
  if (name === 'GetInfo') {
    const about = { vendor: 'kiln', product: 'kilnd', version: KILN_VERSION };
    call.end({ ...about, url: '', interfaces: [SERVICE, KILN] });
  } else if (name === 'GetInterfaceDescription') {
    const { interface: wanted } = parameters;
    if (wanted === KILN || wanted === SERVICE) call.end({ description: interfaceText(wanted) });
    else if (typeof wanted === 'string')
      call.fail(SERVICE_ERROR.interfaceNotFound, { interface: wanted });
    else call.fail(SERVICE_ERROR.invalidParameter, { parameter: 'interface' });
  } else call.fail(SERVICE_ERROR.methodNotFound, { method });
}

function fail(
  call: Call,
  error: unknown,
  place: AnsweringProcess,
  paths: CallerPaths = NO_PATHS,
): void {
  const rename = (text: string) => paths.renamed(text);
  noteFailure(error);
  currentAction()?.exit(exitStatus(error));
  if (error instanceof PartFailed) {
    call.fail(error.message, error.parameters);
    return;
  }
  if (error instanceof InvalidParameter) {
    call.fail(SERVICE_ERROR.invalidParameter, { parameter: error.parameter });
    return;
  }
  if (error instanceof CommanderError) {
    const message = error.message.replace(/^(?:kiln|error): /, '');
    call.fail(FAILED, { code: 'E_ARGUMENT', message: rename(message), hint: FIELDS, causes: [] });
    return;
  }
  const known = knownFailure(error);
  if (known === undefined) place.tell(error);
  const { code = 'E_INTERNAL', message = String(error), hint } = known ?? {};
  const causes = known === undefined ? [] : reasonsOf(error, known).map(rename);
  call.fail(FAILED, { code, message: rename(message), hint: hint && rename(hint), causes });
}
