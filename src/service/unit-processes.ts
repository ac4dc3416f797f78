import { setTimeout as sleep } from 'node:timers/promises';
import { boxProcesses } from './box-processes.ts';
import type { UnitHost } from './unit-host.ts';

/** How often is looked whether processes are gone, ms. */
const PAUSE = 20;

/**
 * The processes of one unit, known by their sessions: each command that kiln starts leads one, and
 * so does a daemon that left its parent. A process that makes itself a session of its own is out of
 * sight until the whole box ends.
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
    const found = boxProcesses(this.#host.sandbox.initPid).find((process) => process.pid === pid);
    return found !== undefined && this.#sessions.has(found.session);
  }

  /** Those that live. */
  get living(): number {
    return boxProcesses(this.#host.sandbox.initPid).filter(
      ({ session, zombie }) => !zombie && this.#sessions.has(session),
    ).length;
  }

  async signal(signal: NodeJS.Signals): Promise<void> {
    for (const session of this.#sessions) await this.#host.control.killSession(session, signal);
  }

  /** Waits until none lives; false if some still do after `milliseconds`. */
  async gone(milliseconds: number): Promise<boolean> {
    for (const end = Date.now() + milliseconds; this.living > 0; await sleep(PAUSE)) {
      if (Date.now() > end) return false;
    }
    this.#sessions.clear();
    return true;
  }
}
