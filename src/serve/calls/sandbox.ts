import { addAbortListener } from 'node:events';
import { fstatSync, readSync } from 'node:fs';
import { runRequest } from '../../cli/options/sandbox-options.ts';
import { namesFiles } from '../../cli/users/user-guard.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { openExistingImage } from '../../image/open.ts';
import { planRun, readSecrets } from '../../jobs/run/plan.ts';
import { destroySandbox } from '../../sandbox/domain/destroy.ts';
import { whyEndless } from '../../sandbox/domain/ending.ts';
import { findSandbox, listSandboxes, sandboxUsage } from '../../sandbox/domain/sandbox-record.ts';
import { notFileError, openFile } from '../../sandbox/door/open-file.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import type { Answer, CallContext } from './context.ts';
import type { OpenSandbox } from './open-sandboxes.ts';
import {
  admitOptions,
  admittedImage,
  checkBase64,
  checkVariables,
  sandboxOptions,
  timeLimits,
} from './options.ts';
import { endOf, needCommand, needMore } from './run.ts';
import { CommandStdio, checkSignal } from './stdio.ts';

/** Bytes that one ReadFile gives. */
const READ_MAX = 1 << 20;

export const answerOpen: Answer<'OpenSandbox'> = async (parameters, context) => {
  const { call, caller } = context;
  const { options, command } = sandboxOptions(parameters, caller);
  const { image: named } = parameters;
  const isUsers = caller.user !== undefined && namesFiles('shell', { ...options, image: named });
  // Whether they may be opened is a worker's to say.
  if (isUsers && context.daemon !== undefined) return await context.daemon.work(call);
  await admitOptions(command, 'shell', context);
  await admittedImage(named, context);
  const { sandboxes, makeImage } = daemonOf(context);
  await using engine = context.openEngine();
  const existing = async () => await openExistingImage(engine, parameters.image, '/');
  let found = await existing();
  if (found === undefined) {
    await makeImage(call, parameters.image);
    found = await existing();
  }
  if (found === undefined)
    throw new KilnError(
      'E_IMAGE_MISSING',
      `image ${parameters.image} was deleted right after it was made`,
    );
  await using image = found;
  const { id, name } = image.manifest;
  const request = { ...runRequest(options, [], command, caller.ids), image: id };
  const plan = planRun(engine, request, image);
  const secrets = await readSecrets(request.secrets, call.signal);
  const sandbox = await PlannedSandbox.open(engine, plan, { secrets, signal: call.signal });
  sandbox.receive(plan.command);
  const { more, identity } = call.head;
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
  const { argv, env = {}, workdir, terminal } = parameters;
  needCommand(argv);
  needMore(call, parameters);
  checkBase64('input', parameters.input);
  checkVariables(env);
  return await use(parameters.sandbox, context, async ({ sandbox, plan }) => {
    const { command } = plan;
    const started = await sandbox.start(
      {
        ...command,
        argv,
        env: { ...command.env, ...env },
        workdir: workdir ?? command.workdir,
        time: timeLimits(parameters),
        leftovers: 'left',
      },
      { terminal },
    );
    const { process } = started;
    call.reply({
      started: { sandbox: sandbox.id, process: call.head.process, pid: process.pid },
    });
    const kill = () => void started.kill().catch(() => undefined);
    using stdio = new CommandStdio(process, call, kill, parameters);
    const ended = await started.ended();
    await stdio.rest();
    // What else the kernel counted is the sandbox's, not this command's.
    return { ...stdio.collected, result: endOf(ended, ended.timeLimit) };
  });
};

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
  const bytes = Buffer.from(data, 'base64');
  await use(parameters.sandbox, context, async ({ sandbox }) => {
    await sandbox.putFile({ path, bytes, append, mode });
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
  return await use(
    id,
    context,
    async ({ sandbox }) =>
      await sandbox.withRoot(async (root) => {
        using file = closing(openFile(root, path, sandbox.hostUser));
        const { size } = fstatSync(file.fd);
        const bytes = Buffer.alloc(Math.max(0, Math.min(READ_MAX, size - offset)));
        const read = bytes.length === 0 ? 0 : readSync(file.fd, bytes, 0, bytes.length, offset);
        return { data: bytes.toString('base64', 0, read), size };
      }),
  );
};

async function use<Result>(
  id: string,
  context: CallContext,
  act: (open: OpenSandbox) => Promise<Result>,
): Promise<Result> {
  return await daemonOf(context).sandboxes.use(id, context.call.head.identity.uid, act);
}

function daemonOf({ daemon }: CallContext): NonNullable<CallContext['daemon']> {
  if (daemon !== undefined) return daemon;
  throw new KilnError('E_ARGUMENT', 'this is not the connection for open sandboxes', {
    hint: 'call this method on kilnd’s socket, with files by WriteFile; `kiln varlink` is for jobs',
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
      state: state === 'ending' ? 'abandoned' : state,
      cannotEnd: state === 'ending' ? whyEndless(record.init?.pid) : undefined,
      image: record.image,
      command: record.command ?? [],
      ...sandboxUsage(engine.paths, record),
    })),
  };
};

export const answerKillSandbox: Answer<'KillSandbox'> = async ({ sandbox }, context) => {
  await using engine = context.openEngine();
  const { id, directory, record } = await findSandbox(engine, sandbox);
  await destroySandbox(engine.paths, directory, record, engine.connect);
  return { id };
};
