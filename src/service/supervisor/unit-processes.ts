import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { statOf, until } from '../../host/process/process.ts';
import { awaitedLater } from '../../promise.ts';
import { exitOf, type ProcessEnd } from '../../sandbox/command/process.ts';
import { endText, LOGS_HINT } from '../failure.ts';
import { accountOf } from '../unit/load-unit.ts';
import type { ServiceUnit, UnitCondition } from '../unit/read-unit.ts';
import {
  type RunningCommand,
  readInside,
  type UnitHost,
  unseenError,
  within,
} from './unit-host.ts';

/** The pause between two looks whether processes are gone, ms. */
const PAUSE = 20;

/**
 * The processes of one unit, known by their sessions: each command leads one, and so does a daemon that left
 * its parent. A process that makes another session is not seen until the whole sandbox ends.
 */
export class UnitProcesses {
  readonly #host: UnitHost;
  readonly #sessions = new Set<number>();

  constructor(host: UnitHost) {
    this.#host = host;
  }

  add(session: number): void {
    this.#sessions.add(session);
  }

  /** A daemon may make a session later: setsid(2) names it after its pid. Later forks are in that one. */
  join(pid: number, session: number): void {
    this.#sessions.add(session).add(pid);
  }

  async has(pid: number): Promise<boolean> {
    const found = (await sandboxProcesses(this.#host)).find((process) => process.pid === pid);
    return found !== undefined && this.#sessions.has(found.session);
  }

  async isLiving(): Promise<boolean> {
    return (await sandboxProcesses(this.#host)).some(
      ({ session, zombie }) => !zombie && this.#sessions.has(session),
    );
  }

  async signal(signal: NodeJS.Signals): Promise<void> {
    for (const session of this.#sessions) await this.#host.control.killSession(session, signal);
  }

  async gone(milliseconds: number): Promise<boolean> {
    const isGone = await until(async () => !(await this.isLiving()), milliseconds, PAUSE);
    if (isGone) this.#sessions.clear();
    return isGone;
  }
}

const KILL_PATIENCE = 5000;

export async function terminate(
  unit: ServiceUnit,
  processes: UnitProcesses,
  main: MainProcess | undefined,
): Promise<void> {
  const { killMode, killSignal, sendHangup, sendKill, stopTimeout } = unit;
  if (killMode === 'none') return;
  if (killMode === 'control-group') await processes.signal(killSignal);
  else main?.kill(killSignal);
  if (sendHangup) await processes.signal('SIGHUP');
  if (killMode === 'control-group') {
    if ((await processes.gone(stopTimeout)) || !sendKill) return;
  } else {
    if (main !== undefined) await within(main.end, stopTimeout).catch(() => undefined);
    if (killMode === 'process') return;
  }
  await processes.signal('SIGKILL');
  await processes.gone(KILL_PATIENCE);
}

interface SandboxProcess {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  readonly zombie: boolean;
}

/**
 * By their pids in the sandbox, which cannot mount: its /proc is the one that the init mounted.
 * @throws KilnError E_SANDBOX_GONE, E_MACHINE
 */
export async function sandboxProcesses({ sandbox }: UnitHost): Promise<SandboxProcess[]> {
  const { inside } = sandbox.tree;
  if (inside !== undefined) {
    const found = await inside.processes(false);
    return found.map((process) => ({ ...process, zombie: process.state === 'Z' }));
  }
  using root = closing(sandbox.tree.openRoot());
  const proc = `/proc/self/fd/${root.fd}/proc`;
  return readdirSync(proc)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      const pid = Number(name);
      const stat = statOf(pid, proc);
      if (stat === undefined) return [];
      const [state, parent, , session] = stat;
      return [{ pid, parent: Number(parent), session: Number(session), zombie: state === 'Z' }];
    });
}

export interface MainProcess {
  readonly pid: number;
  readonly end: Promise<ProcessEnd>;
  kill(signal: NodeJS.Signals): void;
}

/** How long a PID file may be late, ms. */
const PID_FILE_PATIENCE = 30_000;

export function commandAsMain({ pid, end, process }: RunningCommand): MainProcess {
  return { pid, end, kill: (signal) => void process.kill(signal) };
}

export async function adoptMain(
  host: UnitHost,
  pid: number,
  processes: UnitProcesses,
): Promise<MainProcess> {
  const { session, ended, kill } = await host.control.adopt(pid);
  processes.join(pid, session);
  return { pid, kill, end: awaitedLater(ended.then(exitOf)) };
}

/**
 * The daemon of Type=forking: by its PID file, or as the one new orphan of the sandbox; undefined if several
 * fit. Throws E_UNIT_FAILED when the command failed or the PID file does not appear.
 */
export async function findDaemon(
  host: UnitHost,
  unit: ServiceUnit,
  command: RunningCommand,
  before: ReadonlySet<number>,
  processes: UnitProcesses,
): Promise<MainProcess | undefined> {
  const end = await command.end;
  if (end.exitCode !== 0) {
    throw new KilnError('E_UNIT_FAILED', `${unit.name}: its start ended with ${endText(end)}`, {
      hint: LOGS_HINT,
    });
  }
  const orphans = (await orphansOf(host)).filter(({ pid }) => !before.has(pid));
  for (const { pid, session } of orphans) processes.join(pid, session);
  if (unit.pidFile !== undefined) {
    return await adoptMain(host, await pidFromFile(host, unit.pidFile), processes);
  }
  const [only] = orphans;
  if (!unit.guessMainPid || only === undefined || orphans.length > 1) return undefined;
  return await adoptMain(host, only.pid, processes);
}

async function orphansOf(host: UnitHost) {
  return (await sandboxProcesses(host)).filter(({ parent, zombie }) => parent === 1 && !zombie);
}

async function pidFromFile(host: UnitHost, path: string): Promise<number> {
  for (const end = Date.now() + PID_FILE_PATIENCE; Date.now() < end; await sleep(PAUSE)) {
    const text = await readInside(host, path);
    const named = Number(text?.trim());
    if ((await orphansOf(host)).some(({ pid }) => pid === named)) return named;
  }
  throw new KilnError('E_UNIT_FAILED', `${path} does not name a daemon that runs`, {
    hint: 'PIDFile= must be where the daemon writes it',
  });
}

export async function makeUnitDirectories(host: UnitHost, unit: ServiceUnit): Promise<void> {
  const { user, group } = accountOf(host.tree, unit.user, unit.group);
  const own = { uid: user.uid, gid: group.gid };
  await host.control.makeDirectories(
    unit.directories.map(({ path, mode, rootOwned }) => ({
      ...{ path, mode },
      ...(rootOwned ? { uid: 0, gid: 0 } : own),
    })),
  );
}

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
  if (tree.lacks(path)) throw unseenError(path);
  const stats = tree.stat(path);
  if (kind === 'PathIsSymbolicLink') return tree.lstat(path)?.isSymbolicLink() === true;
  if (stats === undefined) return false;
  if (kind === 'PathIsDirectory') return stats.isDirectory();
  if (kind === 'FileNotEmpty') return stats.isFile() && stats.size > 0;
  if (kind === 'FileIsExecutable') return stats.isFile() && (stats.mode & 0o111) !== 0;
  if (kind === 'DirectoryNotEmpty') return stats.isDirectory() && tree.list(path).length > 0;
  return true;
}
