import { existsSync, statSync, watch } from 'node:fs';
import { dirname } from 'node:path';
import type { OwnEngine } from '../engine.ts';
import { attempt } from '../host/calls/libc.ts';
import { sweepWorkGroups } from '../host/cgroup/work-group.ts';
import { type HeldLock, lockUnlessHeld } from '../host/files/flock.ts';
import { makeRunFolder, removeEmptyRunFolder } from '../host/state/paths.ts';
import { startSuccessor } from './listener.ts';
import type { Lull, Removals } from './lull.ts';
import type { Parking } from './parked.ts';
import type { Activity, Server } from './server.ts';
import type { DaemonSettings } from './settings.ts';
import type { Workers } from './workers.ts';

/** How long a sandbox's removal may take at the daemon's own end, milliseconds. */
const LAST_REMOVALS = 5000;

export interface LifeParts {
  readonly settings: DaemonSettings;
  readonly engine: OwnEngine;
  readonly activity: Activity;
  readonly lull: Lull;
  readonly parked: Parking;
  readonly workers: Workers;
  readonly sandboxes: { closeAll(bound: boolean): Promise<void> };
  readonly removals: Removals;
  readonly server: Server;
  /** The path of the lock that says whose state it is, and the lock. */
  readonly locked: string;
  readonly lock: HeldLock;
  /** Sockets of systemd's. */
  readonly passed: readonly number[];
  readonly tell: (error: unknown) => void;
  readonly fail: (error: unknown) => void;
}

/** Ends the daemon: when it is told to, when nobody wants anything for long, or when it is not the state's any more. */
export class Life {
  readonly #parts: LifeParts;
  #timer: NodeJS.Timeout | undefined;
  #isIdle = true;
  #isOutdated = false;
  #isEnding = false;

  constructor(parts: LifeParts) {
    this.#parts = parts;
    this.#idle(true);
    parts.activity.on('idle', (isIdle) => this.#idle(isIdle));
    parts.server.on('outdated', () => this.#letGo());
    this.#watchState();
    this.#watchRunFolder();
  }

  #idle(isIdle: boolean): void {
    const { idleTime } = this.#parts.settings;
    this.#isIdle = isIdle;
    clearTimeout(this.#timer);
    if (isIdle) this.#timer = setTimeout(() => this.end(), this.#isOutdated ? 0 : idleTime);
  }

  /** Another daemon may have the state: this one finishes what it has begun. */
  #letGo(): void {
    const { passed, server, sandboxes, lock, tell, fail } = this.#parts;
    if (this.#isOutdated) return;
    this.#isOutdated = true;
    if (passed.length > 0) startSuccessor(passed).catch(tell);
    server.stopListening();
    // No new connection can come for those without one.
    sandboxes.closeAll(false).catch(tell);
    lock.release().catch(fail);
    if (this.#isIdle) this.end();
  }

  /** Without the state nothing is left to serve. Once kiln.socket is started, systemd's sockets have the names. */
  #watchState(): void {
    const { settings, server } = this.#parts;
    watch(settings.state, () => {
      if (this.#isOutdated || server.isNamed) return;
      if (existsSync(settings.state)) this.#letGo();
      else this.end();
    }).unref();
  }

  /**
   * Nothing starts without it: the next daemon makes it, and a libvirtd, anew. Its parent is told at once, itself only
   * when nothing has it open; the removal of a sandbox may make another one.
   */
  #watchRunFolder(): void {
    const { paths } = this.#parts.engine;
    makeRunFolder(paths);
    const made = statSync(paths.run).ino;
    watch(dirname(paths.run), () => {
      if (statSync(paths.run, { throwIfNoEntry: false })?.ino !== made) this.#letGo();
    }).unref();
  }

  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#end().catch(this.#parts.fail);
  }

  async #end(): Promise<void> {
    const { engine, lull, parked, workers, sandboxes, removals, server, locked } = this.#parts;
    const { paths } = engine;
    lull[Symbol.dispose]();
    server.stopListening();
    await Promise.all([
      parked.container.end(),
      parked.vm.end(),
      workers.end(),
      sandboxes.closeAll(true),
    ]);
    await sweepWorkGroups(paths);
    await removals.done(LAST_REMOVALS);
    await engine[Symbol.asyncDispose]();
    // It stays while a libvirtd or sandboxes are in it, and for a daemon that has taken over.
    const free = async () => await lockUnlessHeld(locked, { existing: true }).catch(() => 'gone');
    const mine = this.#isOutdated ? await free() : 'held';
    if (mine !== undefined) attempt(() => removeEmptyRunFolder(paths));
    process.exit(0);
  }
}
