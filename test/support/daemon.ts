import { closeSync, existsSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { waitForDeath } from '../../src/host/process/process.ts';
import { connectUnixSocket, peerCredentials } from '../../src/host/sockets/unix-socket.ts';
import { PATIENCE } from './busybox-state.ts';

/** The process that listens on a state directory's socket; undefined where none does. */
export function daemonPid(state: string): number | undefined {
  try {
    const socket = connectUnixSocket(join(realpathSync(state), 'io.kiln'));
    try {
      return peerCredentials(socket).pid;
    } finally {
      closeSync(socket);
    }
  } catch {
    return undefined;
  }
}

/** Has the daemon of a state directory end, and waits until it has. */
export async function endDaemon(state: string): Promise<void> {
  const pid = existsSync(state) ? daemonPid(state) : undefined;
  if (pid === undefined) return;
  process.kill(pid, 'SIGTERM');
  if (await waitForDeath(pid, 20_000 * PATIENCE)) return;
  process.kill(pid, 'SIGKILL');
  throw new Error(`kilnd (process ${pid}) of ${state} did not end`);
}

/** Of a client's environment what is no reason to start a worker for it alone; its daemon parks nothing. */
export function plainEnvironment({ PATH, KILN_STATE, HOME }: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { PATH, KILN_STATE, HOME, KILN_PARKED: '0', KILN_IDLE: '10m' };
}
