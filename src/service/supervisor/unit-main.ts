import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { awaitedLater } from '../../promise.ts';
import { endText } from '../failure.ts';
import { accountOf } from '../unit/load-unit.ts';
import type { ServiceUnit, UnitCondition } from '../unit/service-unit.ts';
import { signalOf } from '../unit/unit-file.ts';
import type { RunningCommand } from './unit-command.ts';
import type { ProcessEnd, UnitHost } from './unit-host.ts';
import { sandboxProcesses } from './unit-processes.ts';

/** The process whose end is the end of the unit. */
export interface MainProcess {
  readonly pid: number;
  readonly end: Promise<ProcessEnd>;
  kill(signal: NodeJS.Signals): void;
}

/** How long a PID file may be late, and the pause between two looks, ms. */
const PID_FILE_PATIENCE = 30_000;
const PAUSE = 20;

export function commandAsMain({ pid, end, process }: RunningCommand): MainProcess {
  return { pid, end, kill: (signal) => void process.kill(signal) };
}

/** Watches a process that kiln did not start. Throws E_SETUP if it is gone. */
export async function adoptMain(
  host: UnitHost,
  pid: number,
  joined: (session: number) => void,
): Promise<MainProcess> {
  const { session, ended, kill } = await host.control.adopt(pid);
  join({ pid, session }, joined);
  return { pid, kill, end: awaitedLater(ended.then(endFromStatus, () => killed)) };
}

/**
 * Adds a daemon's session, and the session that it may make later (setsid(2) names it after the daemon's pid).
 * Later forks are in that one.
 */
function join(
  { pid, session }: { readonly pid: number; readonly session: number },
  joined: (session: number) => void,
): void {
  joined(session);
  joined(pid);
}

const killed: ProcessEnd = { exitCode: null, signal: 'SIGKILL' };

/** Decodes the status of wait(2). */
function endFromStatus({ status }: { readonly status: number }): ProcessEnd {
  const number = status & 0x7f;
  if (number === 0) return { exitCode: (status >> 8) & 0xff, signal: null };
  return { exitCode: null, signal: signalOf(String(number)) ?? 'SIGKILL' };
}

/**
 * Finds the daemon that a Type=forking command left: by its PID file, or as the one new orphan of the sandbox.
 * Undefined if several fit; then the unit has no main process. Throws E_UNIT_FAILED when the command failed or
 * the PID file does not appear.
 */
export async function findDaemon(
  host: UnitHost,
  unit: ServiceUnit,
  command: RunningCommand,
  before: ReadonlySet<number>,
  joined: (session: number) => void,
): Promise<MainProcess | undefined> {
  const end = await command.end;
  if (end.exitCode !== 0) {
    throw new KilnError('E_UNIT_FAILED', `${unit.name}: its start ended with ${endText(end)}`, {
      hint: '`kiln service logs` shows what it said',
    });
  }
  const orphans = newOrphans(host, before);
  for (const orphan of orphans) join(orphan, joined);
  if (unit.pidFile !== undefined) {
    return await adoptMain(host, await pidFromFile(host, unit.pidFile), joined);
  }
  const [only] = orphans;
  if (!unit.guessMainPid || only === undefined || orphans.length > 1) return undefined;
  return await adoptMain(host, only.pid, joined);
}

function newOrphans(host: UnitHost, before: ReadonlySet<number>) {
  return sandboxProcesses(host.sandbox.initPid).filter(
    ({ pid, parent, zombie }) => parent === 1 && !zombie && !before.has(pid),
  );
}

async function pidFromFile(host: UnitHost, path: string): Promise<number> {
  for (const end = Date.now() + PID_FILE_PATIENCE; Date.now() < end; await sleep(PAUSE)) {
    const pid = Number(host.tree.readText(path)?.trim());
    const found = sandboxProcesses(host.sandbox.initPid).find((process) => process.pid === pid);
    if (found !== undefined && found.parent === 1 && !found.zombie) return pid;
  }
  throw new KilnError('E_UNIT_FAILED', `${path} does not name a daemon that runs`, {
    hint: 'PIDFile= must be where the daemon writes it',
  });
}

/** Makes the directories of RuntimeDirectory= and the like, with the unit's user as owner. */
export async function makeUnitDirectories(host: UnitHost, unit: ServiceUnit): Promise<void> {
  const { user, group } = accountOf(host.tree, unit.user, unit.group);
  await host.control.makeDirectories(
    unit.directories.map(({ path, mode, rootOwned }) => ({
      path,
      mode,
      uid: rootOwned ? 0 : user.uid,
      gid: rootOwned ? 0 : group.gid,
    })),
  );
}

/**
 * The first condition that is not met; undefined if all are. Throws E_UNIT_FAILED for an assertion that is not
 * met.
 */
export function failedCondition(host: UnitHost, unit: ServiceUnit): string | undefined {
  for (const condition of unit.conditions) {
    if (holds(host, condition) !== condition.negated) continue;
    const { assertion, kind, negated, path } = condition;
    const text = `${assertion ? 'Assert' : 'Condition'}${kind}=${negated ? '!' : ''}${path}`;
    if (!assertion) return text;
    throw new KilnError('E_UNIT_FAILED', `${unit.name}: the condition ${text} is not met`, {
      hint: 'the unit starts only where the condition is met',
    });
  }
  return undefined;
}

function holds({ tree }: UnitHost, { kind, path }: UnitCondition): boolean {
  const stats = tree.stat(path);
  if (kind === 'PathIsSymbolicLink') return tree.lstat(path)?.isSymbolicLink() === true;
  if (stats === undefined) return false;
  if (kind === 'PathIsDirectory') return stats.isDirectory();
  if (kind === 'FileNotEmpty') return stats.isFile() && stats.size > 0;
  if (kind === 'FileIsExecutable') return stats.isFile() && (stats.mode & 0o111) !== 0;
  if (kind === 'DirectoryNotEmpty') return stats.isDirectory() && tree.list(path).length > 0;
  return true;
}
