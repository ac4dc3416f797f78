/** Open sandboxes: any number of commands, and files in and out. */

import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { descriptorPath, FileSystems } from '../../artifacts/source.ts';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { O_PATH, openat2, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS } from '../../host/files/at.ts';
import { makingFilesAs } from '../../host/process/user-namespace.ts';
import { openExistingImage } from '../../image/open.ts';
import { planRun } from '../../jobs/run/plan.ts';
import { readSecrets } from '../../jobs/run/secrets.ts';
import { PlannedSandbox } from '../../sandbox/door/planned-sandbox.ts';
import { runRequest } from '../options/sandbox-options.ts';
import type { Answer, CallContext } from './context.ts';
import type { OpenSandbox } from './open-sandboxes.ts';
import { sandboxOptions } from './options.ts';
import { endOf, needCommand, needsMore } from './run.ts';
import { CommandStdio, checkSignal } from './stdio.ts';

/** Bytes that one ReadFile gives. */
const READ_MAX = 1 << 20;

/** Opens a sandbox, and keeps it until its connection ends if that waits for it. */
export const answerOpen: Answer<'OpenSandbox'> = async (parameters, context) => {
  const { call, caller } = context;
  const { sandboxes, makeImage } = daemonOf(context);
  await using engine = context.openEngine();
  const { options, command } = sandboxOptions(parameters, caller);
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
  const request = runRequest(options, id, [], command, caller);
  const plan = planRun(engine, request, image);
  const secrets = await readSecrets(request.secrets);
  const sandbox = await PlannedSandbox.open(engine, plan, { secrets, signal: call.signal });
  const { more, identity } = call.head;
  const open = sandboxes.add(sandbox, plan, { uid: identity.uid, bound: more });
  const opened = { sandbox: sandbox.id, image: { id, name } };
  if (!more) return opened;
  const close = () => {
    sandboxes.close(sandbox.id, identity.uid).catch(() => undefined);
  };
  call.signal.addEventListener('abort', close);
  if (call.signal.aborted) close();
  call.reply(opened);
  await open.closed;
  return {};
};

/** Runs a command beside others. */
export const answerExecute: Answer<'Execute'> = async (parameters, context) => {
  const { call } = context;
  const { argv, env = {}, workdir, terminal, timeout, stallTimeout } = parameters;
  needCommand(argv);
  if ((parameters.interactive === true || terminal !== undefined) && !call.head.more)
    throw needsMore();
  return await use(parameters.sandbox, context, async ({ sandbox, plan }) => {
    const { command } = plan;
    const started = await sandbox.start(
      {
        ...command,
        argv,
        env: { ...command.env, ...env },
        workdir: workdir ?? command.workdir,
        time: defined({ timeout, stallTimeout }),
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

/** The call that has started a command. @throws KilnError E_NO_PROCESS */
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
  const { path, data, append = false, mode } = parameters;
  const bytes = Buffer.from(data, 'base64');
  return await use(parameters.sandbox, context, async ({ sandbox, plan }) => {
    const [, uid] = sandbox.facts.uidMap;
    const [, gid] = sandbox.facts.gidMap;
    const owner = { uid: uid + plan.owner.uid, gid: gid + plan.owner.gid };
    const flags =
      constants.O_WRONLY | constants.O_CREAT | (append ? constants.O_APPEND : constants.O_TRUNC);
    await sandbox.withRoot(async (root) => {
      const open = () => openFile(root, path, flags, mode ?? 0o644);
      const file = makingFilesAs(owner, open);
      try {
        for (let at = 0; at < bytes.length; ) at += writeSync(file, bytes, at);
        if (mode !== undefined) fchmodSync(file, mode & 0o777);
      } finally {
        closeSync(file);
      }
    });
    return {};
  });
};

export const answerRead: Answer<'ReadFile'> = async ({ sandbox: id, path, offset = 0 }, context) =>
  await use(
    id,
    context,
    async ({ sandbox }) =>
      await sandbox.withRoot(async (root) => {
        const file = openFile(root, path, constants.O_RDONLY);
        try {
          const { size } = fstatSync(file);
          const bytes = Buffer.alloc(Math.max(0, Math.min(READ_MAX, size - offset)));
          const read = bytes.length === 0 ? 0 : readSync(file, bytes, 0, bytes.length, offset);
          return { data: bytes.toString('base64', 0, read), size };
        } finally {
          closeSync(file);
        }
      }),
  );

const RESOLVE = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;

/**
 * Opens a file of a sandbox, whatever links lie on the way: none leads out of it. What the kernel only shows as a
 * file (/proc, /sys) is none: here it would be opened with root's rights.
 * @throws KilnError E_ARGUMENT for what is no plain file, SyscallError
 */
function openFile(root: number, path: string, flags: number, mode = 0): number {
  if (!path.startsWith('/')) throw notFile(path, 'it is not an absolute path');
  let found: number;
  try {
    found = openat2(root, path, { flags: O_PATH, resolve: RESOLVE });
  } catch (error) {
    if ((flags & constants.O_CREAT) === 0 || !hasErrno(error, 'ENOENT')) throw error;
    const how = { flags: flags | constants.O_EXCL, mode: mode & 0o777, resolve: RESOLVE };
    return openat2(root, path, how);
  }
  using _found = closing(found);
  const stats = fstatSync(found, { bigint: true });
  if (!stats.isFile() || new FileSystems().isPseudo(found, stats)) {
    throw notFile(path, 'it is not a plain file');
  }
  return openSync(descriptorPath(found), flags & ~constants.O_CREAT);
}

async function use<Result>(
  id: string,
  context: CallContext,
  act: (open: OpenSandbox) => Promise<Result>,
): Promise<Result> {
  return await daemonOf(context).sandboxes.use(id, context.call.head.identity.uid, act);
}

function daemonOf({ daemon }: CallContext): NonNullable<CallContext['daemon']> {
  if (daemon !== undefined) return daemon;
  throw new KilnError('E_INTERNAL', 'a worker has no open sandboxes');
}

function notFile(path: string, why: string): KilnError {
  return new KilnError('E_ARGUMENT', `path: ${path}: ${why}`, {
    hint: 'name a file in the sandbox',
  });
}
