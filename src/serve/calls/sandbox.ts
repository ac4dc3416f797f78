import { addAbortListener } from 'node:events';
import { runRequest } from '../../cli/options/sandbox-options.ts';
import { admit, namesFiles } from '../../cli/users/user-guard.ts';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { currentAction } from '../../events/action.ts';
import { unpackDisks } from '../../jobs/run/disk-images.ts';
import { planRun, readSecrets } from '../../jobs/run/plan.ts';
import { SHELL } from '../../options/sandbox.ts';
import { destroySandbox } from '../../sandbox/domain/destroy.ts';
import { whyEndless } from '../../sandbox/domain/ending.ts';
import { findSandbox, listSandboxes, sandboxUsage } from '../../sandbox/domain/sandbox-record.ts';
import { closedError, connectHolder } from '../../sandbox/door/holder.ts';
import { notFileError } from '../../sandbox/door/open-file.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { CommandEnd, RunningCommand } from '../../sandbox/door/supervise.ts';
import type { FileContent } from '../../sandbox/door/tree.ts';
import { askForFile, visit, visitEnded } from '../../sandbox/door/visit.ts';
import { Visitors } from '../../sandbox/door/visitors.ts';
import type { Answer, CallContext } from './context.ts';
import { type OpenSandbox, OpenSandboxes } from './open-sandboxes.ts';
import {
  admittedImage,
  checkBase64,
  checkVariables,
  sandboxOptions,
  timeLimits,
} from './options.ts';
import { endOf, needCommand, needImage, needMore, takeImage } from './run.ts';
import { CommandStdio, checkSignal } from './stdio.ts';

export const answerOpen: Answer<'OpenSandbox'> = async (parameters, context) => {
  const { call, caller, daemon } = context;
  const { options, command } = sandboxOptions(parameters, caller);
  const { image: named } = parameters;
  const isUsers = caller.user !== undefined && namesFiles(SHELL, { ...options, image: named });
  // Whether they may be opened is a worker's to say, and copying files takes long.
  const isLong = isUsers || options.copyIn.length > 0 || options.publish.length > 0;
  if (isLong && daemon !== undefined) return await daemon.work(call);
  await admit(command, caller, { words: 'shell' }, []);
  needImage(named, options);
  const wanted = named && (await admittedImage(named, context));
  if (daemon === undefined) needConnection(call);
  await using engine = context.openEngine();
  let found = await takeImage(engine, wanted, context, options);
  if (found === undefined && wanted !== undefined) {
    await daemon?.part(call, 'BuildImage', { image: wanted });
    found = await takeImage(engine, wanted, context, options);
  }
  if (found === undefined)
    throw new KilnError('E_IMAGE_MISSING', `image ${named} was deleted right after it was made`);
  await using image = found;
  const { id, name } = image.manifest;
  const request = { ...runRequest(options, [], command, caller.ids), image: id };
  await using disks = await unpackDisks(engine, request, call.signal);
  const plan = planRun(engine, request, image, { volumes: disks.volumes });
  const secrets = await readSecrets(request.secrets, call.signal);
  const sandbox = await PlannedSandbox.open(engine, plan, { secrets, signal: call.signal });
  try {
    const warn = ({ message }: { readonly message: string }) => context.warn(message);
    if (request.copyIn.length > 0) await sandbox.tree.copyIn(request.copyIn, warn, call.signal);
  } catch (error) {
    await sandbox.close();
    throw error;
  }
  new Visitors(sandbox, plan.command);
  const { more, identity } = call.head;
  const sandboxes = daemon?.sandboxes ?? new OpenSandboxes();
  const open = sandboxes.add(sandbox, plan, { uid: identity.uid, bound: more });
  context.hold(open.closed);
  const opened = { sandbox: sandbox.id, image: { id, name } };
  if (!more) return opened;
  using _gone = addAbortListener(call.signal, () => {
    sandboxes.close(sandbox.id, identity.uid).catch(() => undefined);
  });
  call.reply(opened);
  await open.closed;
  return {};
};

export const answerExecute: Answer<'Execute'> = async (parameters, context) => {
  const { call } = context;
  const { argv, env = {}, workdir, terminal, sandbox: id } = parameters;
  needCommand(argv);
  needMore(call, parameters);
  checkBase64('input', parameters.input);
  checkVariables(env);
  const time = timeLimits(parameters);
  currentAction()?.entered({ sandbox: id, argv });
  const attend = async ({ process, kill, ended }: Execution) => {
    call.reply({ started: { sandbox: id, process: call.head.process, pid: process.pid } });
    using stdio = new CommandStdio(
      process,
      call,
      () => void kill().catch(() => undefined),
      parameters,
    );
    const end = await ended();
    await stdio.rest();
    // What else the kernel counted is the sandbox's, not this command's.
    return { ...stdio.collected, result: endOf(end, end.timeLimit) };
  };
  return await use(id, context, {
    own: async ({ sandbox, plan: { command } }) => {
      const further = {
        argv,
        env: { ...command.env, ...env },
        workdir: workdir ?? command.workdir,
      };
      const plan = { ...command, ...further, time, leftovers: 'left' } as const;
      return await attend(await sandbox.start(plan, { terminal }));
    },
    other: async (holder) => {
      const request = { argv, env, ...defined({ workdir, terminal }) };
      const { command: process } = await visit(holder, request);
      const kill = async () => void process.kill('SIGKILL');
      const ended = () => visitEnded(process, time);
      return await attend({ process, kill, ended });
    },
  });
};

interface Execution {
  readonly process: RunningCommand['process'];
  readonly kill: RunningCommand['kill'];
  readonly ended: () => Promise<CommandEnd>;
}

export const answerInput: Answer<'SendInput'> = async ({ process, data, end }, context) => {
  checkBase64('data', data);
  await commandOf(process, context).control({ data, end });
  return {};
};

export const answerSignal: Answer<'SendSignal'> = async ({ process, signal }, context) => {
  await commandOf(process, context).control({ signal: checkSignal(signal) });
  return {};
};

export const answerResize: Answer<'ResizeTerminal'> = async (
  { process, rows, columns },
  context,
) => {
  const fits = [rows, columns].every((size) => size > 0 && size < 1 << 16);
  if (!fits)
    throw new KilnError('E_ARGUMENT', 'rows, columns: not a size', { hint: 'give 1 to 65535' });
  await commandOf(process, context).control({ size: { rows, columns } });
  return {};
};

function commandOf(process: string, context: CallContext) {
  const found = daemonOf(context).calls.get(process);
  if (found?.head.identity.uid !== context.call.head.identity.uid) throw context.call.noProcess();
  return found;
}

export const answerClose: Answer<'CloseSandbox'> = async ({ sandbox }, context) => {
  await daemonOf(context).sandboxes.close(sandbox, context.call.head.identity.uid);
  return {};
};

export const answerWrite: Answer<'WriteFile'> = async (parameters, context) => {
  const { path, data, append = false, mode = 0o644 } = parameters;
  if (!path.startsWith('/')) throw notFileError(path, 'it is not an absolute path');
  if (mode < 0 || mode > 0o777) {
    const hint = 'it is in decimal: 420 is 0644';
    throw new KilnError('E_ARGUMENT', `mode: ${mode} is not from 0 to 511`, { hint });
  }
  checkBase64('data', data);
  await use(parameters.sandbox, context, {
    own: ({ sandbox }) =>
      sandbox.tree.put({ path, bytes: Buffer.from(data, 'base64'), append, mode }),
    other: async (holder) =>
      void (await askForFile(holder, { do: 'write', path, data, append, mode })),
  });
  return {};
};

export const answerRead: Answer<'ReadFile'> = async (
  { sandbox: id, path, offset = 0 },
  context,
) => {
  if (offset < 0) {
    const hint = 'give 0 or more';
    throw new KilnError('E_ARGUMENT', `offset: ${offset} is before the beginning`, { hint });
  }
  return await use(id, context, {
    own: ({ sandbox }) => sandbox.tree.read({ path, offset }),
    other: (holder) => askForFile<FileContent>(holder, { do: 'read', path, offset }),
  });
};

interface Uses<Result> {
  own(open: OpenSandbox): Promise<Result>;
  other(holder: number): Promise<Result>;
}

/** Of a sandbox that this process has opened, or that another one holds. @throws KilnError E_NO_SANDBOX */
async function use<Result>(
  id: string,
  context: CallContext,
  { own, other }: Uses<Result>,
): Promise<Result> {
  const { sandboxes } = daemonOf(context);
  const { uid } = context.call.head.identity;
  if (sandboxes.has(id, uid)) return await sandboxes.use(id, uid, own);
  await using engine = context.openEngine();
  const found = await findSandbox(engine, id);
  const holder = connectHolder(found.folder);
  if (holder === undefined) throw closedError(found);
  return await other(holder);
}

/** A sandbox without one would count beside the one that its caller may have here. @throws KilnError E_ARGUMENT */
function needConnection({ head }: CallContext['call']): void {
  if (head.more) return;
  throw new KilnError(
    'E_ARGUMENT',
    'OpenSandbox with files or ports of the host is for calls with `more`',
    {
      hint: 'the sandbox is there until the connection ends',
    },
  );
}

function daemonOf({ daemon }: CallContext): NonNullable<CallContext['daemon']> {
  if (daemon !== undefined) return daemon;
  throw new KilnError('E_ARGUMENT', 'this is not the connection for open sandboxes', {
    hint: 'call this method on kilnd’s socket: it knows the sandboxes of `kiln varlink`, too',
  });
}

export const answerListSandboxes: Answer<'ListSandboxes'> = async (_, context) => {
  await using engine = context.openEngine();
  // Their callers know that they have ended.
  await context.daemon?.removed();
  const sandboxes = await listSandboxes(engine.paths, engine);
  return {
    sandboxes: sandboxes.map(({ id, state, record }) => ({
      ...{ id, domain: record.domain, created: Math.round(record.created) },
      // The interface has no words of their own for these.
      state: state === 'ending' || state === 'dead' ? 'abandoned' : state,
      cannotEnd: state === 'ending' ? whyEndless(record.init?.pid) : undefined,
      image: record.image,
      command: record.command ?? [],
      ...sandboxUsage(engine.paths, record),
    })),
  };
};

export const answerKillSandbox: Answer<'KillSandbox'> = async ({ sandbox }, context) => {
  await using engine = context.openEngine();
  const { id, folder, record } = await findSandbox(engine, sandbox);
  await destroySandbox(engine.paths, folder, record, engine.connect);
  return { id };
};
