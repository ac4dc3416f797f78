import { existsSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { tryLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { patience, sayAfter, sayToWaiting, sayWaiting } from '../../host/process/wait-for.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { InstanceFiles } from '../instance-files.ts';
import { keepAsking, supervisorOf } from '../supervisor/supervisor-client.ts';
import { lockServices, serviceFiles, sweepServices, workDirectory } from './store.ts';

/** How often is looked whether the supervisor has ended, and how often it is asked to, ms. */
const PAUSE = 30;
const ASK_AGAIN = 500;

/** How long a supervisor that was killed may take to be gone, ms. */
const KILL_PATIENCE = 10_000;

/** Whether a supervisor of the service lives. */
export async function isSupervised(files: InstanceFiles): Promise<boolean> {
  try {
    const lock = await tryLock(files.supervisorLock);
    await lock?.release();
    return lock === undefined;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

/**
 * Stops a service and waits until its sandbox is gone. False when it did not run, nor was about to.
 * A supervisor that shows no sign of life any more is killed; its sandbox ends with it.
 * Throws E_SERVICE_SILENT when even that does not help.
 */
export async function stopService(files: InstanceFiles): Promise<boolean> {
  const wanted = existsSync(files.wanted);
  await rm(files.wanted, { force: true });
  if (!(await isSupervised(files))) return wanted;
  const began = performance.now();
  const asking = keepAsking(files, { do: 'stop' }, ASK_AGAIN);
  let untell: (() => void) | undefined;
  try {
    for (let killed: number | undefined; await isSupervised(files); await sleep(PAUSE)) {
      const now = performance.now();
      if (now - began > sayAfter()) {
        untell ??= sayWaiting(supervisorOf(files), 'which stops its units');
      }
      if (killed === undefined && now - asking.last() > patience()) {
        killed = now;
        killSupervisor(files);
      }
      if (killed !== undefined && now - killed > KILL_PATIENCE) throw resists(files);
    }
  } finally {
    asking.end();
    untell?.();
  }
  return true;
}

function killSupervisor(files: InstanceFiles): void {
  const { name, pid } = supervisorOf(files);
  if (pid === undefined) return;
  sayToWaiting(`kiln: ${name} does not answer: it is killed, and its sandbox with it\n`);
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

function resists(files: InstanceFiles): KilnError {
  const { name, pid } = supervisorOf(files);
  return new KilnError('E_SERVICE_SILENT', `the supervisor of service ${name} cannot be ended`, {
    hint:
      pid === undefined
        ? `find who holds ${files.supervisorLock}, and end it`
        : `it is stuck in the kernel: \`cat /proc/${pid}/stack\` shows where`,
  });
}

/** Throws E_SERVICE_RUNS when the service runs. */
export async function requireStopped(name: string, files: InstanceFiles): Promise<void> {
  if (!existsSync(files.wanted) && !(await isSupervised(files))) return;
  throw new KilnError('E_SERVICE_RUNS', `service ${name} is running`, {
    hint: `\`kiln service stop ${name}\` first`,
  });
}

/**
 * Removes a service with all it has. Throws E_NO_SERVICE, E_SERVICE_RUNS; E_REMOVE when some of its files
 * cannot be removed, which are tried again later.
 */
export async function deleteService(paths: StatePaths, name: string): Promise<void> {
  await using _lock = await lockServices(paths);
  // A service whose file is broken must be deletable as well.
  const files = await serviceFiles(paths, name);
  await requireStopped(name, files);
  const work = await workDirectory(paths, name);
  await rename(files.directory, `${work}/deleted`);
  await removeTree(files.run);
  await removeTree(work);
  await sweepServices(paths);
}
