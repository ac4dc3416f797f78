/** How long the smoke of scripts/test-hosts may take: each step, and all of it. It never hangs. */
import { awaitedLater } from '../../src/promise.ts';

/** The time that is there for all steps. */
export class Limit {
  readonly #end: number;

  constructor(minutes: number) {
    this.#end = performance.now() + minutes * 60_000;
  }

  /** Whole milliseconds that are left, at least one. */
  left(): number {
    return Math.max(1, Math.round(this.#end - performance.now()));
  }

  /** The result of a step's `work`. @throws Error that names the step, if it takes longer than it may */
  async step<Result>(title: string, minutes: number, work: Promise<Result>): Promise<Result> {
    const begun = performance.now();
    const allowed = Math.min(minutes * 60_000, this.left());
    const kept = awaitedLater(work);
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<never>((_, reject) => {
      const why = `${title}: not done within ${Math.round(allowed / 1000)} s`;
      timer = setTimeout(() => reject(new Error(why)), allowed);
    });
    try {
      const result = await Promise.race([kept, over]);
      const seconds = Math.round((performance.now() - begun) / 1000);
      process.stdout.write(`==> ${title}: ${seconds} s\n`);
      return result;
    } finally {
      clearTimeout(timer);
    }
  }
}
