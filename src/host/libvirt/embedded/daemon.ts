import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { hasErrno } from '../../calls/libc.ts';
import { tryLock, withLock } from '../../files/flock.ts';
import { removeTree } from '../../files/remove-tree.ts';
import { isStopped, waitForDeath } from '../../process/process.ts';
import { linkState, type StatePaths } from '../../state/paths.ts';
import { LibvirtError } from '../errors.ts';
import { clearHome, homeNames, removeEmptyHome } from './cgroups.ts';
import { daemonPid, type EmbeddedFiles, embeddedFiles, LOCK } from './files.ts';
import { homeOf, type Launched, launch } from './launch.ts';

/** Seconds without a client and a running domain after which the daemon ends by itself. */
const IDLE_SECONDS = 120;

/** How long a start may take: far beyond the 150 ms it needs, for machines that swap. */
const START_MS = 60_000;

const START_ATTEMPTS = 3;

/** How long a daemon may take to end on SIGTERM before it is killed. */
const STOP_MS = 5000;

export interface EmbeddedDaemon {
  readonly pid: number;
  /** Whether this call started it. */
  readonly started: boolean;
}

/** How the daemon is started, where it has to be. */
export interface EmbeddedOptions {
  /** Seconds, default 120. */
  readonly idle?: number;
}

/**
 * Starts the private libvirtd of `paths` unless it runs. If many processes call this at once, one daemon is
 * started. It belongs to none of them and lives on.
 * @throws LibvirtError E_LIBVIRT_MISSING, E_LIBVIRT_START; KilnError E_NO_CGROUPS
 */
export async function ensureEmbeddedDaemon(
  paths: StatePaths,
  options: EmbeddedOptions = {},
): Promise<EmbeddedDaemon> {
  const files = embeddedFiles(paths);
  const found = await reach(files);
  if (found !== undefined) return { ...found, started: false };
  await mkdir(files.run, { recursive: true, mode: 0o700 });
  // The state directory is traversable, because sandboxes reach their root through it; libvirt's directory is
  // 0700.
  await mkdir(paths.root, { recursive: true });
  await mkdir(paths.libvirt, { recursive: true, mode: 0o700 });
  linkState(paths);
  return withLock(files.lock, async () => {
    const other = await reach(files);
    if (other !== undefined) return { ...other, started: false };
    for (let attempt = 1; ; attempt++) {
      await endRemains(files);
      const launched = await launch(files, options.idle ?? IDLE_SECONDS);
      const result = await ready(files, launched);
      if (typeof result === 'object') return { ...result, started: true };
      // Status 0: on a busy machine the daemon ended, idle, before this process looked.
      if (result !== 0 || attempt === START_ATTEMPTS) throw await failedStart(files, result);
    }
  });
}

/** The state of the daemon of `paths`, without starting it. */
export interface EmbeddedStatus {
  readonly running: boolean;
  readonly pid: number | undefined;
}

/** Looks whether the daemon runs and answers. */
export async function embeddedDaemonStatus(paths: StatePaths): Promise<EmbeddedStatus> {
  const found = await reach(embeddedFiles(paths));
  return { running: found !== undefined, pid: found?.pid };
}

/**
 * Ends the daemon of `paths` with all its domains, and removes its cgroups and its files on /run.
 * @throws LibvirtError E_LIBVIRT_STOP where a process resists
 */
export async function stopEmbeddedDaemon(paths: StatePaths): Promise<void> {
  const files = embeddedFiles(paths);
  await mkdir(paths.run, { recursive: true, mode: 0o700 });
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
    await rm(paths.link, { force: true });
    // Deleted while the lock is held: those who wait for the lock take a new file.
    await rm(files.lock, { force: true });
  });
}

/** The name of a daemon's cgroup, as {@link embeddedFiles} makes it. */
const HOME_NAME = /^kiln-([0-9a-f]+)$/;

/**
 * Removes cgroups that daemons of other state directories left: a daemon cannot remove the cgroup it is in when
 * it ends. Cgroups with a process in them stay, and those of a daemon that is starting.
 * @returns their names
 */
export async function sweepEndedDaemons(paths: StatePaths): Promise<string[]> {
  const own = embeddedFiles(paths).name;
  const names = (await homeNames()).filter((name) => HOME_NAME.test(name) && name !== own);
  const removed: string[] = [];
  for (const name of names) {
    const run = join(paths.hostRun, HOME_NAME.exec(name)?.[1] ?? '');
    if (!existsSync(run)) {
      if (await removeEmptyHome(name)) removed.push(name);
      continue;
    }
    await using lock = await tryLock(join(run, LOCK)).catch(() => undefined);
    if (lock !== undefined && (await removeEmptyHome(name))) removed.push(name);
  }
  return removed;
}

type Found = Omit<EmbeddedDaemon, 'started'>;

/** The daemon, if it accepts connections. */
async function reach(files: EmbeddedFiles): Promise<Found | undefined> {
  if (!(await answers(files.socket))) return undefined;
  const pid = daemonPid(files);
  return pid === undefined ? undefined : { pid };
}

/**
 * Whether something listens on the socket. A stopped daemon still does, until its backlog is full (EAGAIN):
 * that daemon is alive and has its domains.
 */
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
  for (const [signal, within] of [
    ['SIGTERM', STOP_MS],
    ['SIGKILL', STOP_MS],
  ] as const) {
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    if (await waitForDeath(pid, within)) return;
  }
  throw new LibvirtError('E_LIBVIRT_STOP', `libvirtd ${pid} cannot be killed`, {
    hint: `it is stuck in the kernel: \`cat /proc/${pid}/stack\` shows where`,
  });
}

/** Ends a daemon that accepts no connections: it is ending already, or stuck. */
async function endRemains(files: EmbeddedFiles): Promise<void> {
  const pid = daemonPid(files);
  if (pid !== undefined && !(await waitForDeath(pid, STOP_MS))) {
    // A person stopped it on purpose, for example in a debugger.
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

/** The daemon that was just launched, once it accepts connections; otherwise its exit status or undefined. */
async function ready(
  files: EmbeddedFiles,
  launched: Launched,
): Promise<Found | number | undefined> {
  const until = performance.now() + START_MS;
  for (let pause = 1; performance.now() < until; pause = Math.min(pause * 1.3, 50)) {
    const found = await reach(files);
    if (found !== undefined) return found;
    const code = launched.exitCode();
    if (code !== undefined) return code;
    await sleep(pause);
  }
  return undefined;
}

async function failedStart(files: EmbeddedFiles, code: number | undefined): Promise<LibvirtError> {
  const why = code === undefined ? 'does not answer' : `ended with status ${code}`;
  return new LibvirtError('E_LIBVIRT_START', `the embedded libvirtd ${why}`, {
    cause: new Error(await lastLines(files.log)),
    hint: `look into ${files.log}; kiln doctor tells what is missing`,
  });
}

async function lastLines(path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trimEnd().split('\n').slice(-8).join('\n');
}
