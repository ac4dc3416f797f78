/** Sandboxes that are parked for the next runs, and turns for whoever must start one. */
import { writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import type { Engine } from '../engine.ts';
import { readText } from '../host/calls/libc.ts';
import type { HeldSandbox, Turn, WantedTurn } from '../host/libvirt/sandbox-host.ts';
import { readCounters, writeCounters } from '../host/state/counters.ts';
import { makeRunFolder, type StatePaths } from '../host/state/paths.ts';
import { awaitedLater } from '../promise.ts';
import { ParkingLot } from '../sandbox/domain/parking.ts';
import { UserJobs } from '../users/queue.ts';

/** What must stay free beside parked sandboxes, and the estimate for one of them, bytes. */
const SPARE_MEMORY = 512 << 20;
const SANDBOX_MEMORY = 32 << 20;

/** After a failure, ms. */
const RETRY = 10_000;

/** Keeps sandboxes parked. They are started while nothing else starts. */
export class ParkedSandboxes {
  readonly #paths: StatePaths;
  readonly #lot: ParkingLot;
  readonly #usual: number;
  readonly #failed: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;
  #refilling: Promise<void> | undefined;
  #ended = false;

  constructor(engine: Engine, usual: number, failed: (error: unknown) => void) {
    this.#paths = engine.paths;
    this.#lot = new ParkingLot(engine);
    this.#usual = usual;
    this.#failed = failed;
  }

  refill(): void {
    clearTimeout(this.#timer);
    if (!this.#ended) this.#refilling ??= awaitedLater(this.#untilOver(this.#refill()));
  }

  #untilOver(filling: Promise<void>): Promise<void> {
    return filling.finally(() => {
      this.#refilling = undefined;
    });
  }

  get count(): number {
    return this.#lot.count;
  }

  get target(): number {
    return readTarget(this.#paths) ?? this.#usual;
  }

  get room(): number {
    return Math.max(0, Math.floor((freemem() - SPARE_MEMORY) / SANDBOX_MEMORY));
  }

  take(): Promise<HeldSandbox | undefined> {
    return this.#lot.takeNext();
  }

  /** Whether a command that could have had a parked sandbox got one; nobody has missed what is not to be there. */
  noteClaim(isTaken: boolean): void {
    if (!isTaken && this.target === 0) return;
    const { taken = 0, missed = 0 } = readCounters(this.#paths, 'claims');
    const claims = isTaken ? { taken: taken + 1, missed } : { taken, missed: missed + 1 };
    writeCounters(this.#paths, 'claims', claims);
  }

  async keep(count: number): Promise<void> {
    writeTarget(this.#paths, count);
    await this.fill();
  }

  async fill(): Promise<void> {
    // After the filling before: sandboxes that it is starting are not counted yet.
    await this.#refilling?.catch(() => undefined);
    this.#refilling = awaitedLater(this.#untilOver(this.#lot.fill(() => this.target)));
    await this.#refilling;
  }

  async none(): Promise<void> {
    writeTarget(this.#paths, 0);
    await this.#refilling?.catch(() => undefined);
    await this.#lot.clear();
  }

  async #refill(): Promise<void> {
    try {
      const { target } = this;
      if (this.count >= target || this.room < target) return;
      await this.#lot.fill(() => (this.#ended ? 0 : this.target));
    } catch (error) {
      if (this.#ended) return;
      this.#failed(error);
      this.#timer = setTimeout(() => this.refill(), RETRY);
    }
  }

  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    await this.#refilling?.catch(() => undefined);
    await this.#lot.clear();
  }
}

function targetFile(paths: StatePaths): string {
  return join(paths.run, 'park-target');
}

function readTarget(paths: StatePaths): number | undefined {
  const text = readText(targetFile(paths));
  return text === undefined ? undefined : Number(text) || 0;
}

function writeTarget(paths: StatePaths, count: number): void {
  makeRunFolder(paths);
  writeFileSync(targetFile(paths), String(count));
}

/** More at once are no faster (src/host/libvirt/pool.ts). The last place is for a caller who has none. */
const AT_ONCE = 4;

/** Who may start a sandbox now: libvirt starts a few at a time, and those that wait would use up their patience. */
export class Turns {
  readonly #parked: Pick<ParkedSandboxes, 'take' | 'noteClaim'>;
  readonly #starts = new UserJobs(AT_ONCE);

  constructor(parked: Pick<ParkedSandboxes, 'take' | 'noteClaim'>) {
    this.#parked = parked;
  }

  /** @throws the reason of an abort */
  async take({ uid, isParkable, signal }: WantedTurn): Promise<Turn> {
    const parked = isParkable ? await this.#parked.take() : undefined;
    if (isParkable) this.#parked.noteClaim(parked !== undefined);
    if (parked !== undefined) return { parked, [Symbol.dispose]: () => undefined };
    const turn = await this.#starts.begin({ uid, most: AT_ONCE }, () => undefined, signal);
    if (turn === undefined) throw signal?.reason;
    return turn;
  }
}
