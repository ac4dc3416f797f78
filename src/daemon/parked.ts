/** Keeps sandboxes parked, so that a run finds one: started while nothing else is to be done. */
import { freemem } from 'node:os';
import { awaitedLater } from '../promise.ts';
import type { Engine } from '../sandbox/open.ts';
import { countParked, parkTarget, refill } from '../sandbox/parking.ts';

/** What must stay free beside parked sandboxes, and what one of them is reckoned at, bytes. */
const SPARE_MEMORY = 512 << 20;
const SANDBOX_MEMORY = 32 << 20;

/** How long nothing may run before others are started: a run that follows at once goes first. Milliseconds. */
const QUIET = 30;

/** How long after a failure it is tried again, milliseconds. */
const RETRY = 10_000;

export class ParkedSandboxes {
  readonly #engine: Engine;
  readonly #usual: number;
  readonly #failed: (error: unknown) => void;
  #running = 0;
  #timer: NodeJS.Timeout | undefined;
  #refilling: Promise<void> | undefined;
  #ended = false;

  /**
   * @param usual how many are to wait when nobody says (`kiln park`)
   * @param failed is told why none could be started; it is tried again later
   */
  constructor(engine: Engine, usual: number, failed: (error: unknown) => void) {
    this.#engine = engine;
    this.#usual = usual;
    this.#failed = failed;
    this.#later(QUIET);
  }

  /** Something runs that parked sandboxes must not slow down, until the result is disposed of. */
  busy(): Disposable {
    this.#running++;
    clearTimeout(this.#timer);
    return {
      [Symbol.dispose]: () => {
        this.#running--;
        this.#later(QUIET);
      },
    };
  }

  #later(milliseconds: number): void {
    clearTimeout(this.#timer);
    if (this.#ended || this.#running > 0) return;
    this.#timer = setTimeout(() => {
      this.#refilling ??= awaitedLater(
        this.#refill().finally(() => {
          this.#refilling = undefined;
        }),
      );
    }, milliseconds);
  }

  async #refill(): Promise<void> {
    const { paths, connect } = this.#engine;
    try {
      const target = parkTarget(paths) ?? this.#usual;
      const room = Math.max(0, Math.floor((freemem() - SPARE_MEMORY) / SANDBOX_MEMORY));
      if (countParked(paths) >= target || room < target) return;
      await refill(paths, connect, { usual: this.#usual });
    } catch (error) {
      if (this.#ended) return;
      this.#failed(error);
      this.#later(RETRY);
    }
  }

  /** Starts no more; resolves when none is being started. Those that wait are left. */
  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    await this.#refilling;
  }
}
