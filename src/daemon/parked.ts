/** Keeps sandboxes parked for the next runs. They are started while nothing else starts. */
import { writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { join } from 'node:path';
import type { Engine } from '../engine.ts';
import { readText } from '../host/calls/libc.ts';
import { makeRunFolder, type StatePaths } from '../host/state/paths.ts';
import { awaitedLater } from '../promise.ts';
import { type ParkedSandbox, ParkingLot } from '../sandbox/domain/parking.ts';

/** What must stay free beside parked sandboxes, and the estimate for one of them, bytes. */
const SPARE_MEMORY = 512 << 20;
const SANDBOX_MEMORY = 32 << 20;

/** After a failure, ms. */
const RETRY = 10_000;

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

  take(): Promise<ParkedSandbox | undefined> {
    return this.#lot.takeNext();
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

interface Quietness {
  /** Of silence, after which the listener is called. */
  readonly after: number;
  /** What was begun and is not over is no noise any more after this time. */
  readonly noise: number;
  /** Where something is always begun, the listener is called all the same after this time. */
  readonly most?: number;
}

/** Calls a listener when nothing is begun. Times are milliseconds. */
export class Quiet implements Disposable {
  readonly #times: Quietness;
  #listener: () => void;
  #starting = 0;
  #timer: NodeJS.Timeout | undefined;
  #latest: NodeJS.Timeout | undefined;
  readonly #pauses: (() => void)[] = [];

  constructor(times: Quietness, listener: () => void) {
    this.#times = times;
    this.#listener = listener;
    this.#wait();
  }

  begin(): Disposable {
    this.#starting++;
    clearTimeout(this.#timer);
    const { most, noise } = this.#times;
    if (most !== undefined) this.#latest ??= setTimeout(() => this.#act(), most);
    let counts = true;
    const over = () => {
      if (counts) this.#starting--;
      counts = false;
      if (this.#starting === 0) this.#endPauses();
      // Also after a long command line, which may have taken a sandbox late.
      this.#wait();
    };
    const started = setTimeout(over, noise);
    return {
      [Symbol.dispose]: () => {
        clearTimeout(started);
        over();
      },
    };
  }

  /** For what would hold up whoever begins something. Resolves at once where nothing is begun. */
  async pause(): Promise<void> {
    if (this.#starting === 0 || this.#starting === Number.POSITIVE_INFINITY) return;
    await new Promise<void>((resolve) => this.#pauses.push(resolve));
  }

  #endPauses(): void {
    for (const end of this.#pauses.splice(0)) end();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#latest);
    this.#starting = Number.POSITIVE_INFINITY;
    this.#listener = () => undefined;
    this.#endPauses();
  }

  #wait(): void {
    clearTimeout(this.#timer);
    if (this.#starting === 0) this.#timer = setTimeout(() => this.#act(), this.#times.after);
  }

  #act(): void {
    clearTimeout(this.#latest);
    this.#latest = undefined;
    this.#endPauses();
    this.#listener();
  }
}
