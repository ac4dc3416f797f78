/** Tells when nothing is being started: what is made ahead then slows nobody down. */

/** A command line counts so long at most, milliseconds: by then its sandbox has started, however long it runs. */
const STARTING = 1000;

export class Quiet implements Disposable {
  readonly #milliseconds: number;
  readonly #listener: () => void;
  #starting = 0;
  #timer: NodeJS.Timeout | undefined;

  /** Calls `listener` each time that nothing has been started for so many milliseconds. */
  constructor(milliseconds: number, listener: () => void) {
    this.#milliseconds = milliseconds;
    this.#listener = listener;
    this.#wait();
  }

  /** A command line begins; the result is disposed of when it is over. */
  begin(): Disposable {
    this.#starting++;
    clearTimeout(this.#timer);
    let counts = true;
    const over = () => {
      if (counts) this.#starting--;
      counts = false;
      // At the end of a long one, too: it may have taken late what is to be replaced.
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

  /** Calls the listener no more. */
  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#starting = Number.POSITIVE_INFINITY;
  }

  #wait(): void {
    clearTimeout(this.#timer);
    if (this.#starting === 0) this.#timer = setTimeout(this.#listener, this.#milliseconds);
  }
}
