/** Answers calls of the API: short ones in the daemon's own thread, all others in a worker. */

import { CommanderError } from 'commander';
import {
  checkParameters,
  InvalidParameter,
  interfaceText,
  kilnInterface,
} from '../../api/interface.ts';
import type { Call } from '../../daemon/call.ts';
import { SERVICE_ERROR } from '../../daemon/varlink.ts';
import type { OwnEngine } from '../../engine.ts';
import { knownFailure, reasonLine } from '../../host/calls/system-error.ts';
import { takeCallersUmask } from '../../host/process/own-umask.ts';
import { withWaits } from '../../host/process/wait-for.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { endTrace } from '../../host/trace/trace.ts';
import { RunElsewhere } from '../run.ts';
import {
  type Answer,
  type CallContext,
  type DaemonState,
  type Name,
  type OptionCaller,
  progressTo,
} from './context.ts';
import { methods } from './table.ts';

const SERVICE = 'org.varlink.service';
const KILN = 'io.kiln';

const FAILED = 'io.kiln.Failed';

/** As https://varlink.org/Service has it. */
const SERVICE_TEXT = `# The Varlink Service Interface is provided by every varlink service.
interface org.varlink.service

# Get a list of all the interfaces a service provides and information about the implementation.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# Get the description of an interface that is implemented by this service.
method GetInterfaceDescription(interface: string) -> (description: string)

# The requested interface was not found.
error InterfaceNotFound (interface: string)

# The requested method was not found.
error MethodNotFound (method: string)

# The interface defines the requested method, but the service does not implement it.
error MethodNotImplemented (method: string)

# One of the passed parameters is invalid.
error InvalidParameter (parameter: string)

# Client is denied access.
error PermissionDenied ()

# Method is expected to be called with 'more' set to true, but was not.
error ExpectedMore ()
`;

/** The umask for files that a call makes; a call has none of its own. */
const UMASK = 0o022;

/** The process that answers calls. */
export interface AnsweringProcess {
  readonly env: OptionCaller['env'];
  openEngine(): OwnEngine;
  storeChanged(): void;
  /** Logs an unexpected error. */
  tell(error: unknown): void;
}

/** What all calls of a daemon share. */
export interface AnsweringDaemon extends AnsweringProcess {
  readonly state: Omit<DaemonState, 'makeImage'>;
  /** Has a worker answer the call. */
  work(call: Call): Promise<void>;
}

/** Answers a call to its end, here or in a worker. */
export async function answerCall(call: Call, daemon: AnsweringDaemon): Promise<void> {
  const { method, process: id, identity } = call.head;
  const name = method.slice(method.lastIndexOf('.') + 1);
  const from = method.slice(0, -name.length - 1);
  if (from === SERVICE) return describe(call, name);
  if (from !== KILN) return call.fail(SERVICE_ERROR.interfaceNotFound, { interface: from });
  if (!isMethod(name)) return call.fail(SERVICE_ERROR.methodNotFound, { method });
  // Other users may call only GetVersion.
  const isAllowed = identity.uid === 0 || name === 'GetVersion';
  if (!isAllowed) return call.fail(SERVICE_ERROR.permissionDenied);
  const { calls } = daemon.state;
  calls.set(id, call);
  try {
    const parameters = checkedParameters(call, name);
    const isDone = methods[name].isShort && (await answerHere(call, name, parameters, daemon));
    if (!isDone) await daemon.work(call);
  } catch (error) {
    fail(call, error, daemon);
  } finally {
    calls.delete(id);
  }
}

/** False if a worker must answer; nothing has happened then. */
async function answerHere(
  call: Call,
  name: keyof typeof methods,
  parameters: object,
  daemon: AnsweringDaemon,
): Promise<boolean> {
  const state: DaemonState = {
    ...daemon.state,
    makeImage: (of, image) => makeImage(of, image, daemon),
  };
  try {
    await answer(call, name, parameters, contextOf(call, daemon, state));
    return true;
  } catch (error) {
    if (error instanceof RunElsewhere) return false;
    throw error;
  }
}

async function makeImage(call: Call, image: string, daemon: AnsweringDaemon): Promise<void> {
  const part = call.part(`${KILN}.BuildImage`, { image });
  await daemon.work(part);
  const reply: { error?: string; parameters?: object } = JSON.parse(
    part.outcome?.toString().slice(0, -1) ?? '{}',
  );
  if (reply.error !== undefined) throw new PartFailed(reply.error, reply.parameters ?? {});
}

/** The failure of a part of a call, whose error is that of the whole. */
class PartFailed extends Error {
  readonly parameters: object;

  constructor(error: string, parameters: object) {
    super(error);
    this.parameters = parameters;
  }
}

/** Answers a call in a process without other work. */
export async function answerAlone(call: Call, place: AnsweringProcess): Promise<void> {
  takeCallersUmask(UMASK);
  const context = contextOf(call, place, undefined);
  const name = call.head.method.slice(KILN.length + 1) as keyof typeof methods;
  try {
    await answer(call, name, checkedParameters(call, name), context);
  } catch (error) {
    fail(call, error, place);
  }
  endTrace(context.warn);
}

function isMethod(name: string): name is keyof typeof methods {
  return Object.hasOwn(methods, name);
}

/** @throws InvalidParameter */
function checkedParameters(call: Call, name: Name): object {
  const of = kilnInterface();
  const method = of.methods.get(name);
  if (method === undefined) throw new Error(`${name} is not in the interface`);
  return checkParameters(method.input, call.head.parameters, of);
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
  const reply = await withWaits({ say: context.warn, ...own }, () =>
    method(parameters as never, context),
  );
  call.end(reply);
}

function contextOf(
  call: Call,
  place: AnsweringProcess,
  daemon: DaemonState | undefined,
): CallContext {
  const { uid, gid } = call.head.identity;
  const caller: OptionCaller = {
    env: place.env,
    environment: {},
    ids: { uid, gid },
    cwd: () => '/',
    variable: () => undefined,
  };
  const warns = kilnInterface()
    .methods.get(call.head.method.slice(KILN.length + 1))
    ?.output.fields.some(({ name }) => name === 'warning');
  return {
    ...{ call, caller, daemon },
    openEngine: () => place.openEngine(),
    storeChanged: () => place.storeChanged(),
    warn: (text) => {
      if (warns === true) call.reply({ warning: text.replace(/^kiln: |\n$/g, '') });
    },
    onProgress: progressTo(call),
  };
}

/** The standard methods of every Varlink service. */
function describe(call: Call, name: string): void {
  const { parameters, method } = call.head;
  if (name === 'GetInfo') {
    const about = { vendor: 'kiln', product: 'kilnd', version: KILN_VERSION };
    call.end({ ...about, url: '', interfaces: [SERVICE, KILN] });
  } else if (name === 'GetInterfaceDescription') {
    const { interface: wanted } = parameters;
    if (wanted === KILN) call.end({ description: interfaceText() });
    else if (wanted === SERVICE) call.end({ description: SERVICE_TEXT });
    else if (typeof wanted === 'string')
      call.fail(SERVICE_ERROR.interfaceNotFound, { interface: wanted });
    else call.fail(SERVICE_ERROR.invalidParameter, { parameter: 'interface' });
  } else call.fail(SERVICE_ERROR.methodNotFound, { method });
}

/** The most causes in an error. */
const MAX_CAUSES = 8;

function fail(call: Call, error: unknown, place: AnsweringProcess): void {
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
    call.fail(FAILED, { code: 'E_ARGUMENT', message, causes: [] });
    return;
  }
  const known = knownFailure(error);
  if (known === undefined) place.tell(error);
  const { code = 'E_INTERNAL', message = String(error), hint } = known ?? {};
  const causes: string[] = [];
  // For a failure of the system, the message has the cause already.
  let cause = known === error ? known?.cause : undefined;
  for (; cause instanceof Error && causes.length < MAX_CAUSES; cause = cause.cause)
    causes.push(reasonLine(cause));
  call.fail(FAILED, { code, message, hint, causes });
}
