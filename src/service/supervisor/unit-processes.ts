import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { statOf } from '../../host/process/process.ts';
import type { ServiceUnit } from '../unit/service-unit.ts';
import { type UnitHost, within } from './unit-host.ts';
import type { MainProcess } from './unit-main.ts';

/** The pause between two looks whether processes are gone, ms. */
const PAUSE = 20;

/**
 * The processes of one unit, known by their sessions: each command that kiln starts leads one, and so does a
 * daemon that left its parent. A process that makes another session is not seen until the whole sandbox ends.
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

  has(pid: number): boolean {
    const found = sandboxProcesses(this.#host.sandbox.initPid).find(
      (process) => process.pid === pid,
    );
    return found !== undefined && this.#sessions.has(found.session);
  }

  /** How many live. */
  get living(): number {
    return sandboxProcesses(this.#host.sandbox.initPid).filter(
      ({ session, zombie }) => !zombie && this.#sessions.has(session),
    ).length;
  }

  async signal(signal: NodeJS.Signals): Promise<void> {
    for (const session of this.#sessions) await this.#host.control.killSession(session, signal);
  }

  /** Waits until none lives; false if some still live after `milliseconds`. */
  async gone(milliseconds: number): Promise<boolean> {
    for (const end = Date.now() + milliseconds; this.living > 0; await sleep(PAUSE)) {
      if (Date.now() > end) return false;
    }
    this.#sessions.clear();
    return true;
  }
}

/** How long SIGKILL may take, ms. */
const KILL_PATIENCE = 5000;

/** Ends the remaining processes of a unit, as systemd.kill(5) says. */
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

/** A process of a sandbox, from the sandbox's own /proc. */
interface ProcessOfSandbox {
  readonly pid: number;
  readonly parent: number;
  readonly session: number;
  readonly zombie: boolean;
}

/**
 * The processes in the sandbox of this init, by their pids there. The sandbox cannot mount, so its /proc is the
 * one that the init mounted.
 */
export function sandboxProcesses(initPid: number): ProcessOfSandbox[] {
  const proc = `/proc/${initPid}/root/proc`;
  return readdirSync(proc)
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name): ProcessOfSandbox[] => {
      const pid = Number(name);
      const stat = statOf(pid, proc);
      if (stat === undefined) return [];
      const [state, parent, , session] = stat;
      return [{ pid, parent: Number(parent), session: Number(session), zombie: state === 'Z' }];
    });
}
