/** Tells when nothing is starting, so that work ahead of time slows nobody down. */

/** A command line counts as starting for at most this time, milliseconds: by then its sandbox has started. */
const STARTING = 1000;

export class Quiet implements Disposable {
  readonly #milliseconds: number;
  readonly #listener: () => void;
  #starting = 0;
  #timer: NodeJS.Timeout | undefined;

  /** Calls `listener` whenever nothing has started for this many milliseconds. */
  constructor(milliseconds: number, listener: () => void) {
    this.#milliseconds = milliseconds;
    this.#listener = listener;
    this.#wait();
  }

  /** A command line begins; dispose of the result at its end. */
  begin(): Disposable {
    this.#starting++;
    clearTimeout(this.#timer);
    let counts = true;
    const over = () => {
      if (counts) this.#starting--;
      counts = false;
      // Also after a long command line, which may have taken a sandbox late.
      this.#wait();
    };
    const started = setTimeout(over, STARTING);
    return {
      [Symbol.dispose]: () => {
        clearTimeout(started);
        over();
      },
    };
  }

  /** Stops calling the listener. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#starting = Number.POSITIVE_INFINITY;
  }

  #wait(): void {
    clearTimeout(this.#timer);
    if (this.#starting === 0) this.#timer = setTimeout(this.#listener, this.#milliseconds);
  }
}
