import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { attempt, hasErrno, readText } from '../../calls/libc.ts';
import { tryLock, withLock } from '../../files/flock.ts';
import { removeTree } from '../../files/remove-tree.ts';
import { isStopped, waitForDeath } from '../../process/process.ts';
import { makeRunFolder, removeEmptyRunFolder, type StatePaths } from '../../state/paths.ts';
import { LibvirtError } from '../errors.ts';
import { clearHome, homeNames, removeEmptyHome } from './cgroups.ts';
import { daemonPid, type EmbeddedFiles, embeddedFiles, LOCK } from './files.ts';
import { homeOf, launch } from './launch.ts';

/** Seconds without a client and a running domain, after which the daemon ends. */
const IDLE_SECONDS = 120;

/** It takes 150 ms; this is for machines that swap. */
const START_MS = 60_000;

const START_ATTEMPTS = 3;

const STOP_MS = 5000;

export interface EmbeddedDaemon {
  readonly pid: number;
}

/**
 * Starts the private libvirtd unless it runs: one, if many processes call this at once. It belongs to none of
 * them and lives on.
 * @throws LibvirtError E_LIBVIRT_MISSING, E_LIBVIRT_START; KilnError E_NO_CGROUPS
 */
export async function ensureEmbeddedDaemon(
  paths: StatePaths,
  idle = IDLE_SECONDS,
): Promise<EmbeddedDaemon> {
  const files = embeddedFiles(paths);
  const found = await reach(files);
  if (found !== undefined) return found;
  makeRunFolder(paths);
  await mkdir(files.run, { recursive: true, mode: 0o700 });
  // Sandboxes reach their root through the state directory, so it is traversable; libvirt's is 0700.
  await mkdir(paths.root, { recursive: true });
  await mkdir(paths.libvirt, { recursive: true, mode: 0o700 });
  return withLock(files.lock, async () => {
    const other = await reach(files);
    if (other !== undefined) return other;
    for (let attempt = 1; ; attempt++) {
      await endRemains(files);
      const result = await ready(files, await launch(files, idle));
      if (typeof result === 'object') return result;
      // Status 0: on a busy machine the daemon ended, idle, before this process looked.
      if (result !== 0 || attempt === START_ATTEMPTS) throw await failedStart(files, result);
    }
  });
}

/**
 * Ends a daemon whose state directory was deleted, and its domains: its folders are mounts of what is gone, so it
 * starts no sandbox in the state that has been made anew. The fourth field is a mount's root: proc_pid_mountinfo(5).
 */
export async function endDaemonOfDeletedState(paths: StatePaths): Promise<void> {
  const files = embeddedFiles(paths);
  const isDeleted = (pid = 0) =>
    /^(?:\S+ ){3}\S+\/\/deleted \/var\/log\/libvirt /m.test(
      readText(`/proc/${pid}/mountinfo`) ?? '',
    );
  if (!isDeleted(daemonPid(files))) return;
  await withLock(files.lock, async () => {
    const pid = daemonPid(files);
    if (pid === undefined || !isDeleted(pid)) return;
    await endProcess(pid);
    await clearHome(await homeOf(files));
  });
}

export async function embeddedDaemonStatus(paths: StatePaths) {
  const found = await reach(embeddedFiles(paths));
  return { running: found !== undefined, pid: found?.pid };
}

/**
 * Ends the domains, too, and removes cgroups and files on /run. @throws LibvirtError E_LIBVIRT_STOP where a
 * process resists
 */
export async function stopEmbeddedDaemon(paths: StatePaths): Promise<void> {
  const files = embeddedFiles(paths);
  makeRunFolder(paths);
  await withLock(files.lock, async () => {
    const pid = daemonPid(files);
    if (pid !== undefined) await endProcess(pid);
    if (!(await clearHome(await homeOf(files)))) {
      throw new LibvirtError(
        'E_LIBVIRT_STOP',
        `processes in cgroup ${files.name} cannot be killed`,
        { hint: 'they are stuck in the kernel: `journalctl -k` may tell why' },
      );
    }
    await removeTree(files.run);
    // Deleted while the lock is held: those who wait for the lock take a new file.
    await rm(files.lock, { force: true });
  });
  removeEmptyRunFolder(paths);
}

const HOME_NAME = /^kiln-([0-9a-f]+)$/;

/**
 * Removes cgroups that daemons of other states left (a daemon cannot remove its own), but none with a process,
 * nor of a daemon that is starting.
 */
export async function sweepEndedDaemons(paths: StatePaths): Promise<void> {
  const own = embeddedFiles(paths).name;
  const names = (await homeNames()).filter((name) => HOME_NAME.test(name) && name !== own);
  for (const name of names) {
    const run = join(paths.hostRun, HOME_NAME.exec(name)?.[1] ?? '');
    if (!existsSync(run)) {
      await removeEmptyHome(name);
      continue;
    }
    await using lock = await tryLock(join(run, LOCK)).catch(() => undefined);
    if (lock !== undefined) await removeEmptyHome(name);
  }
}

async function reach(files: EmbeddedFiles): Promise<EmbeddedDaemon | undefined> {
  if (!(await answers(files.socket))) return undefined;
  const pid = daemonPid(files);
  return pid === undefined ? undefined : { pid };
}

/** A stopped daemon still listens, until its backlog is full (EAGAIN): it is alive and has its domains. */
function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    const settle = (answer: boolean) => {
      probe.destroy();
      resolve(answer);
    };
    probe.once('connect', () => settle(true));
    probe.once('error', (error) => settle(hasErrno(error, 'EAGAIN')));
  });
}

async function endProcess(pid: number): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (attempt(() => process.kill(pid, signal)) === undefined) return;
    if (await waitForDeath(pid, STOP_MS)) return;
  }
  throw new LibvirtError('E_LIBVIRT_STOP', `libvirtd ${pid} cannot be killed`, {
    hint: `it is stuck in the kernel: \`cat /proc/${pid}/stack\` shows where`,
  });
}

async function endRemains(files: EmbeddedFiles): Promise<void> {
  const pid = daemonPid(files);
  if (pid !== undefined && !(await waitForDeath(pid, STOP_MS))) {
    if (isStopped(pid)) {
      throw new LibvirtError('E_LIBVIRT_SILENT', `the embedded libvirtd (pid ${pid}) is stopped`, {
        hint: `\`kill -CONT ${pid}\` lets it go on; \`kill -KILL ${pid}\` ends it`,
      });
    }
    await endProcess(pid);
  }
  await rm(files.socket, { force: true });
  await rm(files.pid, { force: true });
}

async function ready(
  files: EmbeddedFiles,
  exitCode: () => number | undefined,
): Promise<EmbeddedDaemon | number | undefined> {
  const until = performance.now() + START_MS;
  for (let pause = 1; performance.now() < until; pause = Math.min(pause * 1.3, 50)) {
    const found = await reach(files);
    if (found !== undefined) return found;
    const code = exitCode();
    if (code !== undefined) return code;
    await sleep(pause);
  }
  return undefined;
}

async function failedStart(files: EmbeddedFiles, code: number | undefined): Promise<LibvirtError> {
  const why = code === undefined ? 'does not answer' : `ended with status ${code}`;
  const log = await readFile(files.log, 'utf8').catch(() => '');
  const lines = log.trimEnd().split('\n').slice(-8);
  const reason = lines
    .findLast((line) => line.includes(': error : '))
    ?.replace(/^.*: error : /, '');
  return new LibvirtError('E_LIBVIRT_START', `the embedded libvirtd ${why}`, {
    cause: new Error(reason ?? lines.join('\n')),
    hint: `look into ${files.log}; kiln doctor tells what is missing`,
  });
}
