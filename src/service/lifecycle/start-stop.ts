import { once } from 'node:events';
import { existsSync, mkdirSync, openSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isKilnCode, KilnError, reasonOf } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { type HeldLock, lockHolder, tryLock } from '../../host/files/flock.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { startProgram } from '../../host/process/child-process.ts';
import { kilnProgram } from '../../host/process/own-node.ts';
import {
  patience,
  sayAfter,
  sayToWaiting,
  sayWaiting,
  stoppedSince,
} from '../../host/process/wait-for.ts';
import { makeRunFolder, type StatePaths } from '../../host/state/paths.ts';
import { settled } from '../../promise.ts';
import {
  ensureHostUnit,
  hostInvocation,
  hostUnitName,
  systemctl,
} from '../definition/host-units.ts';
import { readLog } from '../log-file.ts';
import { readOutcome, type ServiceStatus, writeOutcome } from '../status.ts';
import { serviceImage } from '../supervisor/service-sandbox.ts';
import type { SupervisorPong } from '../supervisor/supervisor-client.ts';
import {
  askSupervisor,
  isSupervised,
  keepAsking,
  supervisorOf,
} from '../supervisor/supervisor-client.ts';
import { guardianScript, unwant, type Wanted, want } from './guardian.ts';
import {
  type InstanceFiles,
  lockServices,
  readService,
  serviceFiles,
  sweepServices,
  workDirectory,
} from './store.ts';

/** The pause between two attempts to reach a supervisor, ms. */
const UP_PAUSE = 30;

/** A supervisor is idle for weeks, so V8 should use little memory rather than be fast. */
const SPARING = ['--max-semi-space-size=1', '--optimize-for-size'];

function supervisorCommand(name: string): readonly [string, ...string[]] {
  const command = kilnProgram(['service', 'supervise', '--while-wanted', name], SPARING);
  if (command !== undefined) return command;
  throw new KilnError('E_INSTALLATION', 'kiln does not know its own program', {
    hint: 'run kiln from a checkout or from its installed package',
  });
}

/**
 * Starts a service under the host's systemd, or in the background on a host without it; `env` has KILN_URI.
 * Throws E_SERVICE_FAILED with the last lines of its log, E_SERVICE_STOPPED, E_INSTALLATION.
 */
export async function startSupervisor(
  paths: StatePaths,
  name: string,
  env: NodeJS.ProcessEnv,
): Promise<ServiceStatus> {
  const service = await readService(paths, name);
  if (!(await ensureHostUnit(service, hostInvocation(paths, env)))) {
    makeRunFolder(paths);
    return await startInBackground(name, service.files);
  }
  const since = Date.now();
  // The unit's start waits for the service, which reports its own failures better.
  const over = settled(systemctl('restart', hostUnitName(name)));
  return await waitUntilStarted(name, service.files, since, over);
}

async function startInBackground(name: string, files: InstanceFiles): Promise<ServiceStatus> {
  const command = supervisorCommand(name);
  const since = Date.now();
  // That alone: a service that was deleted meanwhile does not come back as a folder.
  unlessErrno(['EEXIST'], () => mkdirSync(files.logs, { mode: 0o700 }));
  mkdirSync(files.run, { recursive: true, mode: 0o700 });
  using wanted = want(files.wanted);
  try {
    const ended = startGuardian(name, files, command, wanted);
    return await waitUntilStarted(name, files, since, ended, wanted.isStill);
  } catch (error) {
    // The guardian may retry failed units. A supervisor that could not start is not retried.
    if (!(await isSupervised(files))) wanted.drop();
    throw error;
  }
}

/** @returns whether it has ended */
function startGuardian(
  name: string,
  files: InstanceFiles,
  command: readonly string[],
  wanted: Wanted,
): () => boolean {
  using output = closing(openSync(join(files.logs, 'supervisor.log'), 'w', 0o600));
  const words = ['-c', guardianScript(), `kiln-${name}`, files.wanted, ...command];
  const guardian = startProgram('/bin/sh', words, {
    detached: true,
    cwd: '/',
    stdio: ['ignore', output.fd, output.fd],
  });
  if (guardian.pid !== undefined) wanted.name(guardian.pid);
  guardian.unref();
  return settled(once(guardian, 'exit'));
}

export async function waitUntilStarted(
  name: string,
  files: InstanceFiles,
  since: number,
  givenUp: () => boolean,
  wanted: () => boolean = () => true,
): Promise<ServiceStatus> {
  // A lock holder that is not stopped works. If nobody holds the lock, whoever should start the supervisor hangs.
  const silent = stoppedSince(() => supervisorOf(files).pid);
  for (;;) {
    // Read before asking: if an ended supervisor answers, it is another one.
    const over = givenUp();
    const dropped = !wanted();
    const asked = askSupervisor<ServiceStatus>(files, { do: 'started' }, Number.POSITIVE_INFINITY);
    const status = await asked.catch((error: unknown) => {
      if (isKilnCode(error, 'E_SERVICE_STOPPED')) throw stoppedError(name);
      const hint = error instanceof KilnError ? error.hint : undefined;
      throw failedError(name, files, reasonOf(error), hint);
    });
    if (status !== undefined) return status;
    const outcome = readOutcome(files);
    if (outcome !== undefined && outcome.time >= since) {
      if (outcome.state === 'stopped') throw stoppedError(name);
      if (outcome.state === 'failed') throw failedError(name, files, outcome.reason, outcome.hint);
      throw failedError(name, files, 'its units are done already');
    }
    if ((over || dropped) && !(await isSupervised(files))) {
      throw dropped ? stoppedError(name) : failedError(name, files, 'its supervisor has ended');
    }
    if (performance.now() - silent() > patience()) {
      throw failedError(name, files, `${supervisorOf(files).name} does not come up`);
    }
    await sleep(UP_PAUSE);
  }
}

function stoppedError(name: string): KilnError {
  return new KilnError('E_SERVICE_STOPPED', `${name} was stopped while it started`, {
    hint: `\`kiln service start ${name}\` starts it again`,
  });
}

function failedError(name: string, files: InstanceFiles, reason: string, hint?: string): KilnError {
  // Lines of this start, not of the run before.
  const lines = readLog(files, 8);
  const began = lines.findLastIndex((line) => line.endsWith(`kiln: starting ${name}`));
  const tail = lines.slice(Math.max(0, began));
  const said = tail.length === 0 ? '' : `\n${tail.map((line) => `  | ${line}`).join('\n')}`;
  return new KilnError('E_SERVICE_FAILED', `${name} did not start: ${reason}${said}`, {
    hint: hint ?? `\`kiln service logs ${name}\` shows more`,
  });
}

/** The pause between two looks whether the supervisor has ended, ms, and between two requests to end. */
const PAUSE = 30;
const ASK_AGAIN = 500;

const KILL_PATIENCE = 10_000;

/**
 * Waits until the sandbox is gone. False if the service neither ran nor was starting. A start that has no supervisor
 * yet is ended with its guardian: it would come up later, beside the next one. A supervisor without a
 * sign of life is killed; its sandbox ends with it. Throws E_SERVICE_SILENT if even that does not help.
 */
export async function stopService(files: InstanceFiles): Promise<boolean> {
  const endGuardian = await unwant(files.wanted);
  if (!(await isSupervised(files))) {
    if (endGuardian === undefined) return false;
    await endGuardian();
    if (!(await isSupervised(files))) {
      writeOutcome(files, 'stopped', '');
      return true;
    }
  }
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
      if (killed !== undefined && now - killed > KILL_PATIENCE) {
        const { name, pid } = supervisorOf(files);
        const what = `the supervisor of service ${name} cannot be ended`;
        throw new KilnError('E_SERVICE_SILENT', what, {
          hint:
            pid === undefined
              ? `find who holds ${files.supervisorLock}, and end it`
              : `it is stuck in the kernel: \`cat /proc/${pid}/stack\` shows where`,
        });
      }
    }
  } finally {
    asking.end();
    untell?.();
  }
  await endGuardian?.();
  return true;
}

/**
 * Of a service that is to be started again: while it cannot be, it runs on.
 * @returns as {@link stopService} does @throws KilnError E_RECIPE, E_SERVICE_READ, E_SERVICE_IMAGE, E_IMAGE_MISSING
 */
export async function stopToRestart(paths: StatePaths, name: string): Promise<boolean> {
  const service = await readService(paths, name);
  await using _image = await serviceImage(paths, service);
  return await stopService(service.files);
}

/** Whether it runs, or is starting. One that is being stopped is waited for. @throws KilnError E_SERVICE_SILENT */
export async function runsAlready(files: InstanceFiles): Promise<boolean> {
  const began = performance.now();
  let untell: (() => void) | undefined;
  try {
    for (; await isSupervised(files); await sleep(PAUSE)) {
      const status = await askSupervisor<ServiceStatus>(files, { do: 'status' });
      if (status !== undefined && status.state !== 'stopping') return true;
      // While its sandbox opens it answers this alone; at its end, nothing.
      if (status === undefined) {
        const pong = await askSupervisor<SupervisorPong>(files, { do: 'ping' });
        if (pong !== undefined && !pong.stopping) return true;
      }
      if (performance.now() - began > sayAfter()) {
        untell ??= sayWaiting(supervisorOf(files), 'which stops its units');
      }
    }
    return false;
  } finally {
    untell?.();
  }
}

function killSupervisor(files: InstanceFiles): void {
  // Whoever only looks, or copies the service, has it shared.
  const pid = lockHolder(files.supervisorLock, { exclusive: true });
  if (pid === undefined) return;
  const { name } = supervisorOf(files);
  sayToWaiting(`kiln: ${name} does not answer: it is killed, and its sandbox with it\n`);
  try {
    process.kill(pid, 'SIGKILL');
  } catch {}
}

/**
 * A supervisor waits until the lock is released. `otherwise` is what to do about it without stopping it.
 * @throws KilnError E_SERVICE_RUNS
 */
export async function requireStopped(
  name: string,
  files: InstanceFiles,
  otherwise = '',
): Promise<HeldLock> {
  if (!existsSync(files.wanted)) {
    const lock = await tryLock(files.supervisorLock, { shared: true });
    if (lock !== undefined) return lock;
  }
  throw new KilnError('E_SERVICE_RUNS', `service ${name} is running`, {
    hint: `\`kiln service stop ${name}\` first${otherwise}`,
  });
}

export async function deleteService(paths: StatePaths, name: string): Promise<void> {
  await using _lock = await lockServices(paths);
  // A service with a broken file must be deletable as well.
  const files = await serviceFiles(paths, name);
  await using _stopped = await requireStopped(name, files);
  const work = await workDirectory(paths, name);
  await rename(files.directory, `${work}/deleted`);
  await removeTree(files.run);
  await removeTree(work);
  await sweepServices(paths);
}
