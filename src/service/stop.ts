import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../errors.ts';
import { tryLock } from '../kernel/flock.ts';
import { hasErrno } from '../kernel/libc.ts';
import type { InstanceFiles } from './instance-files.ts';
import { askSupervisor } from './supervisor-client.ts';

const PAUSE = 30;

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

/** Stops a service and waits until its box is gone. False when it did not run. */
export async function stopService(files: InstanceFiles): Promise<boolean> {
  await rm(files.wanted, { force: true });
  if (!(await isSupervised(files))) return false;
  await askSupervisor(files, { do: 'stop' });
  while (await isSupervised(files)) await sleep(PAUSE);
  return true;
}

/** Throws E_SERVICE_RUNS when the service runs. */
export async function requireStopped(name: string, files: InstanceFiles): Promise<void> {
  if (!existsSync(files.wanted) && !(await isSupervised(files))) return;
  throw new KilnError('E_SERVICE_RUNS', `${name} runs`, {
    hint: `\`kiln service stop ${name}\` first`,
  });
}
