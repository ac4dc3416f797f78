import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { basename } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { lockHolder } from '../../host/files/flock.ts';
import { type Awaited, patience, waitFor } from '../../host/process/wait-for.ts';
import { deferred } from '../../promise.ts';
import type { InstanceFiles } from '../instance-files.ts';
import { FRAME, onFrames, sendMessage, type WiredError } from './frames.ts';
import type { SupervisorRequest } from './supervisor-server.ts';

/** How long a supervisor may take for a quick answer, ms. */
const ANSWER_PATIENCE = 10_000;

/** How often a slow supervisor is asked whether it lives, ms. */
const PULSE = 1000;

/** The supervisor of a service, as messages name it. */
export function supervisorOf(files: InstanceFiles): Awaited {
  const pid = lockHolder(files.supervisorLock);
  const which = pid === undefined ? '' : ` (pid ${pid})`;
  return { name: `the supervisor of ${basename(files.directory)}${which}`, pid };
}

/** Connects to a service's supervisor; undefined if it does not run. Throws E_SERVICE_SILENT. */
export async function connectSupervisor(files: InstanceFiles): Promise<Socket | undefined> {
  // Ask it first: the kernel accepts connections even for a stopped process.
  if ((await askSupervisor(files, { do: 'ping' })) === undefined) return undefined;
  return await openSocket(files);
}

async function openSocket(files: InstanceFiles): Promise<Socket | undefined> {
  const socket = connect(files.socket);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ECONNREFUSED', 'ENOTDIR')) return undefined;
    if (!hasErrno(error, 'EAGAIN')) throw error;
    const { name, pid } = supervisorOf(files);
    throw new KilnError('E_SERVICE_SILENT', `the supervisor of ${name} accepts no connections`, {
      cause: error,
      hint: `\`kill -CONT ${pid ?? 'PID'}\` if it is stopped, otherwise \`kill -KILL\``,
    });
  }
}

/** The error that was sent through a socket. */
export function unwired({ code, message, hint }: WiredError): KilnError {
  return new KilnError(code, message, { hint });
}

/**
 * Asks a service's supervisor; undefined if it does not run, or ended before it answered. `within` is the time
 * for a long request, ms; meanwhile the supervisor is asked whether it lives. Throws the error in its answer,
 * and E_SERVICE_SILENT.
 */
export async function askSupervisor<Answer>(
  files: InstanceFiles,
  request: SupervisorRequest,
  within: number = ANSWER_PATIENCE,
): Promise<Answer | undefined> {
  const quiet = Math.min(ANSWER_PATIENCE, patience(), within);
  const socket = await openSocket(files);
  if (socket === undefined) return undefined;
  const pulse = within > ANSWER_PATIENCE ? keepAsking(files, { do: 'ping' }, PULSE) : undefined;
  const { promise: answered, resolve, reject } = deferred<Answer | undefined>();
  const late = new KilnError(
    'E_SERVICE_SILENT',
    `${supervisorOf(files).name} does not answer in time`,
    {
      hint: 'its log may say what it does: `kiln service logs`',
    },
  );
  const timer = Number.isFinite(within) ? setTimeout(reject, within, late) : undefined;
  try {
    onFrames(socket, ({ kind, body }) => {
      if (kind !== FRAME.message) return;
      const answer = JSON.parse(body.toString('utf8')) as { ok: Answer } | { error: WiredError };
      if ('error' in answer) reject(unwired(answer.error));
      else resolve(answer.ok);
    });
    socket.on('error', () => resolve(undefined));
    socket.once('close', () => resolve(undefined));
    sendMessage(socket, request);
    return await waitFor(answered, {
      whom: () => supervisorOf(files),
      code: 'E_SERVICE_SILENT',
      hint: 'its log may say what it does: `kiln service logs`; `kiln service stop` ends it',
      endAfter: quiet,
      ...defined({ since: pulse?.last }),
    });
  } finally {
    clearTimeout(timer);
    pulse?.end();
    socket.destroy();
  }
}

/**
 * Asks a supervisor for a sign of life `every` so many ms: `last` is the time of its last answer, by
 * performance.now(). The supervisor may not listen yet, and may be replaced by another one.
 */
export function keepAsking(
  files: InstanceFiles,
  request: SupervisorRequest,
  every: number,
): { last: () => number; end: () => void } {
  let last = performance.now();
  let asking = false;
  const ask = () => {
    if (asking) return;
    asking = true;
    askSupervisor(files, request)
      .then(
        (answer) => {
          if (answer !== undefined) last = performance.now();
        },
        () => undefined,
      )
      .finally(() => {
        asking = false;
      });
  };
  ask();
  const timer = setInterval(ask, every);
  return { last: () => last, end: () => clearInterval(timer) };
}
