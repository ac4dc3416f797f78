/** Keeps sandboxes parked, so that a run finds one: started while nothing else is to be done. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import type { StatePaths } from '../host/state/paths.ts';
import { awaitedLater } from '../promise.ts';
import { type ParkedSandbox, ParkingLot } from '../sandbox/domain/parking.ts';
import type { Engine } from '../sandbox/open.ts';

/** What must stay free beside parked sandboxes, and what one of them is reckoned at, bytes. */
const SPARE_MEMORY = 512 << 20;
const SANDBOX_MEMORY = 32 << 20;

/** How long after a failure it is tried again, milliseconds. */
const RETRY = 10_000;

export class ParkedSandboxes {
  readonly #paths: StatePaths;
  readonly #lot: ParkingLot;
  readonly #usual: number;
  readonly #failed: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;
  #refilling: Promise<void> | undefined;
  #ended = false;

  /**
   * @param usual how many are to wait when nobody says (`kiln park`)
   * @param failed is told why none could be started; it is tried again later
   */
  constructor(engine: Engine, usual: number, failed: (error: unknown) => void) {
    this.#paths = engine.paths;
    this.#lot = new ParkingLot(engine);
    this.#usual = usual;
    this.#failed = failed;
  }

  /** Starts others where some are missing and memory has room; what fails is told and tried again later. */
  refill(): void {
    clearTimeout(this.#timer);
    if (this.#ended) return;
    this.#refilling ??= awaitedLater(
      this.#refill().finally(() => {
        this.#refilling = undefined;
      }),
    );
  }

  /** How many wait. */
  get count(): number {
    return this.#lot.count;
  }

  /** How many are to wait. */
  get target(): number {
    return readTarget(this.#paths) ?? this.#usual;
  }

  /** How many more can wait before memory is short. */
  get room(): number {
    return Math.max(0, Math.floor((freemem() - SPARE_MEMORY) / SANDBOX_MEMORY));
  }

  /** Gives one away, if one waits or is being started. */
  take(): Promise<ParkedSandbox | undefined> {
    return this.#lot.takeNext();
  }

  /** From now on so many are to wait; resolves when they do. @throws what starting one throws */
  async keep(count: number): Promise<void> {
    writeTarget(this.#paths, count);
    await this.fill();
  }

  /** Resolves when as many wait as are to. @throws what starting one throws */
  async fill(): Promise<void> {
    // One after the other: what is being started counts.
    await this.#refilling?.catch(() => undefined);
    const filling = awaitedLater(
      this.#lot
        .fill(() => this.target)
        .finally(() => {
          this.#refilling = undefined;
        }),
    );
    this.#refilling = filling;
    await filling;
  }

  /** Ends those that wait, and has none started any more. */
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

  /** Ends those that wait, and starts no more. */
  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    await this.#refilling?.catch(() => undefined);
    await this.#lot.clear();
  }
}

/** Where the number that somebody asked for is kept until the host's end: for the next daemon. */
function targetFile(paths: StatePaths): string {
  return join(paths.run, 'park-target');
}

function readTarget(paths: StatePaths): number | undefined {
  try {
    return Number(readFileSync(targetFile(paths), 'utf8')) || 0;
  } catch {
    return undefined;
  }
}

function writeTarget(paths: StatePaths, count: number): void {
  mkdirSync(paths.run, { recursive: true, mode: 0o711 });
  writeFileSync(targetFile(paths), String(count));
}
