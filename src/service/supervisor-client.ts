import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../kernel/libc.ts';
import { FRAME, onFrames, sendMessage } from './frames.ts';
import type { InstanceFiles } from './instance-files.ts';
import type { SupervisorRequest, WiredError } from './supervisor-server.ts';

/** How long a supervisor may take to answer what it can answer at once, ms. */
const ANSWER_PATIENCE = 10_000;

/** Connects to a service's supervisor; undefined when it does not run. */
export async function connectSupervisor(files: InstanceFiles): Promise<Socket | undefined> {
  const socket = connect(files.socket);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ECONNREFUSED', 'ENOTDIR')) return undefined;
    throw error;
  }
}

/** An error that came through a socket. */
export function unwired({ code, message, hint }: WiredError): KilnError {
  return new KilnError(code, message, hint === undefined ? {} : { hint });
}

/**
 * Asks a service's supervisor; undefined when it does not run, or ended before it answered.
 * Throws what it answers with, and E_SERVICE_SILENT.
 */
export async function askSupervisor<Answer>(
  files: InstanceFiles,
  request: SupervisorRequest,
  patience: number = ANSWER_PATIENCE,
): Promise<Answer | undefined> {
  const socket = await connectSupervisor(files);
  if (socket === undefined) return undefined;
  try {
    return await new Promise<Answer | undefined>((resolve, reject) => {
      onFrames(socket, ({ kind, body }) => {
        if (kind !== FRAME.message) return;
        const answer = JSON.parse(body.toString('utf8')) as { ok: Answer } | { error: WiredError };
        if ('error' in answer) reject(unwired(answer.error));
        else resolve(answer.ok);
      });
      if (Number.isFinite(patience)) {
        socket.setTimeout(patience, () => {
          reject(
            new KilnError('E_SERVICE_SILENT', 'the supervisor of the service does not answer'),
          );
        });
      }
      socket.on('error', () => resolve(undefined));
      socket.once('close', () => resolve(undefined));
      sendMessage(socket, request);
    });
  } finally {
    socket.destroy();
  }
}
