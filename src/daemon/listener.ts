/** Whether somebody listens already, and sockets that systemd passes. */
import { basename, dirname, join } from 'node:path';
import { KilnError } from '../errors.ts';
import { closeDescriptor, keepDescriptors } from '../host/calls/descriptor.ts';
import { attempt } from '../host/calls/libc.ts';
import { tryCall } from '../host/calls/system-call.ts';
import { Folder } from '../host/files/folder.ts';
import { startProgram } from '../host/process/child-process.ts';
import { ownEnvironment } from '../host/process/own-process.ts';
import { notifyManager } from '../host/sockets/service-manager.ts';
import { connectUnixSocket } from '../host/sockets/unix-socket.ts';
import { packageRoot } from '../host/state/package-root.ts';

/** By systemd, whose socket must not be replaced. @throws Node's own errors of the file system */
export function isTaken(path: string): boolean {
  using folder = Folder.open(dirname(path));
  const socket = attempt(() => connectUnixSocket(join(folder.path, basename(path))));
  if (socket !== undefined) closeDescriptor(socket);
  return socket !== undefined;
}

/** SD_LISTEN_FDS_START of sd-daemon.h. */
const FIRST = 3;
/** Of asm-generic/socket.h. */
const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;

/**
 * sd_listen_fds(3), systemd.socket(5); none if this process was not started by a socket. Programs that it
 * starts do not inherit them. @throws KilnError E_ARGUMENT where one is no socket that listens
 */
export function passedSockets(env: NodeJS.ProcessEnv): number[] {
  const count = Number(env.LISTEN_FDS ?? 0);
  if (env.LISTEN_PID !== String(process.pid) || !(count > 0)) return [];
  const passed = Array.from({ length: count }, (_, index) => FIRST + index);
  for (const fd of passed) {
    const listens = Uint32Array.of(0);
    const length = Uint32Array.of(4);
    const result = tryCall('getsockopt', fd, SOL_SOCKET, SO_ACCEPTCONN, listens, length);
    if (result === 0 && listens[0] === 1) continue;
    throw new KilnError('E_ARGUMENT', `descriptor ${fd} is not a listening socket`, {
      hint: 'LISTEN_FDS counts the sockets of kiln.socket: take kiln’s own unit files',
    });
  }
  keepDescriptors();
  return passed;
}

export async function startSuccessor(passed: readonly number[]): Promise<void> {
  // LISTEN_PID must be the pid of the executed program.
  const script = 'LISTEN_PID=$$ exec "$0"';
  const child = startProgram('/bin/sh', ['-c', script, join(packageRoot(), 'bin/kilnd')], {
    cwd: '/',
    detached: true,
    env: { ...ownEnvironment, LISTEN_FDS: String(passed.length) },
    stdio: ['ignore', 'inherit', 'inherit', ...passed],
  });
  child.unref();
  await notifyManager(`MAINPID=${child.pid}`);
}
