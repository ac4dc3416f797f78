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

/** The pause between two looks whether the supervisor has ended, ms, and between two requests to end. */
const PAUSE = 30;
const ASK_AGAIN = 500;

/** How long a killed supervisor may take to disappear, ms. */
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
 * Stops a service and waits until its sandbox is gone. False if the service neither ran nor was starting. A
 * supervisor without a sign of life is killed; its sandbox ends with it. Throws E_SERVICE_SILENT if even that
 * does not help.
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
    // The supervisor has ended meanwhile.
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

/** Throws E_SERVICE_RUNS if the service is running. */
export async function requireStopped(name: string, files: InstanceFiles): Promise<void> {
  if (!existsSync(files.wanted) && !(await isSupervised(files))) return;
  throw new KilnError('E_SERVICE_RUNS', `service ${name} is running`, {
    hint: `\`kiln service stop ${name}\` first`,
  });
}

/**
 * Deletes a service with all its files. Throws E_NO_SERVICE, E_SERVICE_RUNS; E_REMOVE if some files cannot be
 * removed, and then they are tried again later.
 */
export async function deleteService(paths: StatePaths, name: string): Promise<void> {
  await using _lock = await lockServices(paths);
  // A service with a broken file must be deletable as well.
  const files = await serviceFiles(paths, name);
  await requireStopped(name, files);
  const work = await workDirectory(paths, name);
  await rename(files.directory, `${work}/deleted`);
  await removeTree(files.run);
  await removeTree(work);
  await sweepServices(paths);
}
