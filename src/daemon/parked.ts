/** Keeps sandboxes parked for the next runs. They are started while nothing else starts. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import type { StatePaths } from '../host/state/paths.ts';
import { awaitedLater } from '../promise.ts';
import { type ParkedSandbox, ParkingLot } from '../sandbox/domain/parking.ts';
import type { Engine } from '../sandbox/open.ts';

/** Memory that must stay free beside parked sandboxes, and the estimate for one of them, bytes. */
const SPARE_MEMORY = 512 << 20;
const SANDBOX_MEMORY = 32 << 20;

/** The pause after a failure, milliseconds. */
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

  /** Starts missing sandboxes if memory has room. Failures are reported, and starting is tried again later. */
  refill(): void {
    clearTimeout(this.#timer);
    if (this.#ended) return;
    this.#refilling ??= awaitedLater(
      this.#refill().finally(() => {
        this.#refilling = undefined;
      }),
    );
  }

  /** How many are parked. */
  get count(): number {
    return this.#lot.count;
  }

  /** How many should be parked. */
  get target(): number {
    return readTarget(this.#paths) ?? this.#usual;
  }

  /** How many more fit into memory. */
  get room(): number {
    return Math.max(0, Math.floor((freemem() - SPARE_MEMORY) / SANDBOX_MEMORY));
  }

  /** Takes one, if one is parked or starting. */
  take(): Promise<ParkedSandbox | undefined> {
    return this.#lot.takeNext();
  }

  /** Changes how many should be parked; resolves when they are. @throws what starting one throws */
  async keep(count: number): Promise<void> {
    writeTarget(this.#paths, count);
    await this.fill();
  }

  /** Resolves when as many are parked as should be. @throws what starting one throws */
  async fill(): Promise<void> {
    // One after the other, because starting ones count.
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

  /** Ends the parked sandboxes, and starts no more for now. */
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

  /** Ends the parked sandboxes for good. */
  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    await this.#refilling?.catch(() => undefined);
    await this.#lot.clear();
  }
}

/** The file with the wanted number, for the next daemon until the host's next boot. */
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
