import { closeSync, existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { workGroup } from '../../src/host/cgroup/work-group.ts';
import { waitForDeath } from '../../src/host/process/process.ts';
import { connectUnixSocket, peerCredentials } from '../../src/host/sockets/unix-socket.ts';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { KILN, PATIENCE } from './busybox-state.ts';

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

/** Processes that work for the daemon of a state directory. */
export function workersOf(state: string): number[] {
  const pid = daemonPid(state);
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
  const isWorker = (child: string) => processFile(child, 'cmdline').includes('kilnd-worker');
  return children.filter(isWorker).map(Number);
}

/** Those that count as a user's. */
export function workersFor(paths: StatePaths, uid: number): number[] {
  const group = workGroup(paths, uid);
  return workersOf(paths.root).filter((pid) => processFile(pid, 'cgroup').includes(group));
}

/** Empty for a process that has ended in this moment. */
function processFile(pid: number | string, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8');
  } catch {
    return '';
  }
}

/** Parked ones, and those of a kilnd that a test has killed: the next kiln would remove them. */
export async function endSandboxes(
  { sandboxes }: StatePaths,
  env: NodeJS.ProcessEnv,
): Promise<void> {
  if (!existsSync(sandboxes) || readdirSync(sandboxes).length === 0) return;
  await execa(KILN, ['kill', '--all'], {
    env,
    reject: false,
    stdin: 'ignore',
    timeout: 60_000 * PATIENCE,
  });
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
