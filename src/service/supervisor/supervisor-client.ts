import { once } from 'node:events';
import type { Socket } from 'node:net';
import { basename } from 'node:path';
import { defined } from '../../defined.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { hasErrno, unlessErrno } from '../../host/calls/libc.ts';
import { lockHolder } from '../../host/files/flock.ts';
import { type Awaited, patience, waitFor } from '../../host/process/wait-for.ts';
import { connectFrames } from '../../host/sockets/frame-server.ts';
import {
  FRAME,
  onFrames,
  sendMessage,
  unwired,
  type WiredError,
} from '../../host/sockets/frames.ts';
import { connectUnixSocket, NOBODY_LISTENS } from '../../host/sockets/unix-socket.ts';
import { isHeld } from '../../host/state/long-lived.ts';
import { deferred } from '../../promise.ts';
import { Output } from '../../sandbox/command/output.ts';
import type { ExecuteRequest } from '../../sandbox/door/plan.ts';
import { type ExecuteMessage, type ProcessesMessage, visit } from '../../sandbox/door/visit.ts';
import type { InstanceFiles } from '../lifecycle/store.ts';
import type { ServiceStatus } from '../status.ts';

export interface LiveLimits {
  readonly memory?: number;
  readonly cpus?: number;
  readonly pids?: number;
}

export type SupervisorRequest =
  | { readonly do: 'status' }
  | { readonly do: 'ping' }
  | { readonly do: 'started' }
  | { readonly do: 'stop' }
  | { readonly do: 'reload' | 'restart'; readonly unit?: string }
  | { readonly do: 'limit'; readonly limits: LiveLimits }
  | { readonly do: 'rotate' }
  | ProcessesMessage
  | ExecuteMessage;

/** What a supervisor answers to `ping` and `stop`, at any time. */
export interface SupervisorPong {
  readonly stopping: boolean;
}

/** How long a supervisor may take for a quick answer, ms. */
const ANSWER_PATIENCE = 10_000;

/** How often a slow supervisor is asked whether it lives, ms. */
const PULSE = 1000;

export function supervisorOf(files: InstanceFiles): Awaited {
  const pid = lockHolder(files.supervisorLock);
  const which = pid === undefined ? '' : ` (pid ${pid})`;
  return { name: `the supervisor of ${basename(files.directory)}${which}`, pid };
}

/** A connection for visit(); undefined where the service does not run. */
export async function connectSupervisor(files: InstanceFiles): Promise<number | undefined> {
  // Ask it first: the kernel accepts connections even for a stopped process.
  if ((await askSupervisor(files, { do: 'ping' })) === undefined) return undefined;
  return unlessErrno(NOBODY_LISTENS, () => connectUnixSocket(files.socket));
}

async function openSocket(files: InstanceFiles): Promise<Socket | undefined> {
  try {
    return await connectFrames(files.socket);
  } catch (error) {
    if (!hasErrno(error, 'EAGAIN')) throw error;
    const { name, pid } = supervisorOf(files);
    throw new KilnError('E_SERVICE_SILENT', `the supervisor of ${name} accepts no connections`, {
      cause: error,
      hint: `\`kill -CONT ${pid ?? 'PID'}\` if it is stopped, otherwise \`kill -KILL\``,
    });
  }
}

/**
 * Undefined if it does not run, or ended before it answered. `within` is the time for a long request, ms;
 * meanwhile it is asked whether it lives. Throws the error in its answer, and E_SERVICE_SILENT.
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
  const silent = `${supervisorOf(files).name} does not answer in time`;
  const hint = `${files.log} may say what it does`;
  const late = new KilnError('E_SERVICE_SILENT', silent, { hint });
  // A shorter request ends by what is known of the supervisor's silence, which says more.
  const isLong = within > quiet && Number.isFinite(within);
  const timer = isLong ? setTimeout(reject, within, late) : undefined;
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
      hint: `${hint}; \`kiln service stop\` ends it`,
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
 * Asks every so many ms. `last` is the time of the last answer, by performance.now(). The supervisor may not
 * listen yet, and may be replaced by another one.
 */
export function keepAsking(files: InstanceFiles, request: SupervisorRequest, every: number) {
  let last = performance.now();
  let asking = false;
  const ask = () => {
    if (asking) return;
    asking = true;
    const over = (answer?: unknown) => {
      asking = false;
      if (answer !== undefined) last = performance.now();
    };
    askSupervisor(files, request).then(over, () => over());
  };
  ask();
  const timer = setInterval(ask, every);
  return { last: () => last, end: () => clearInterval(timer) };
}

export function notRunningError(name: string): KilnError {
  return new KilnError('E_SERVICE_STOPPED', `${name} does not run`, {
    hint: `\`kiln service start ${name}\` starts it`,
  });
}

export async function isSupervised({ supervisorLock }: InstanceFiles): Promise<boolean> {
  return await isHeld(supervisorLock);
}

/** How long units may take to reopen their logs, ms. */
const RELOAD_PATIENCE = 120_000;

/** Runs it as it is: images have neither systemctl nor invoke-rc.d, which some configurations call. */
export async function logrotate(
  name: string,
  files: InstanceFiles,
  options: { readonly force?: boolean },
) {
  const argv = ['logrotate', ...(options.force === true ? ['--force'] : [])];
  argv.push('--state', '/var/lib/logrotate/status', '/etc/logrotate.conf');
  const end = await runInService(files, { argv }).catch((error: unknown) => {
    if (!isKilnCode(error, 'E_COMMAND_NOT_FOUND')) throw error;
    throw new KilnError('E_NO_LOGROTATE', `the image of ${name} has no logrotate`, {
      hint: 'add the package logrotate to its recipe',
    });
  });
  const status = await askSupervisor<ServiceStatus>(files, { do: 'status' });
  if (end === undefined || status === undefined) throw notRunningError(name);
  const reloaded: string[] = [];
  for (const unit of status.units.filter(({ state }) => state === 'active')) {
    try {
      await askSupervisor(files, { do: 'reload', unit: unit.name }, RELOAD_PATIENCE);
      reloaded.push(unit.name);
    } catch (error) {
      if (!isKilnCode(error, 'E_NO_RELOAD')) throw error;
    }
  }
  return { output: end.output, exitCode: end.exitCode, reloaded };
}

/** Bytes of output that are kept, the last ones. */
const OUTPUT_LIMIT = 1024 * 1024;

/** Undefined where it does not run. */
export async function runInService(files: InstanceFiles, request: ExecuteRequest) {
  const connection = await connectSupervisor(files);
  if (connection === undefined) return undefined;
  const { command } = await visit(connection, request);
  const output = new Output(OUTPUT_LIMIT);
  for (const stream of [command.stdout, command.stderr]) {
    stream.on('data', (chunk: Buffer) => output.push(chunk));
  }
  command.stdin.end();
  await once(command, 'close');
  return { exitCode: command.exitCode, output: output.text() };
}
