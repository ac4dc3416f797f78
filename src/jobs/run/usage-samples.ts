/** What sandboxes of a job used over time, for its report. */
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import type { Result } from '../../result/schema.ts';

/** One moment, as result.json has it. */
export type UsageSample = NonNullable<Result['samples']>[number];

/** The shortest pause between two samples, milliseconds. */
const PAUSE = 200;
/** Samples that are kept. A longer job has every second of them, and pauses that are twice as long. */
const KEPT = 1000;

/** Samples of one sandbox after the other: sums go on from where the sandbox before ended. */
export class UsageSamples {
  #rows: UsageSample[] = [];
  #pause = PAUSE;
  /** Whether anything is sampled. */
  isOn = true;
  readonly #zero: number;
  /** What sandboxes before this one used in all. */
  #before = { cpuMs: 0, read: 0, written: 0 };

  /** @param zero the beginning of the job, of performance.now() */
  constructor(zero: number) {
    this.#zero = zero;
  }

  /** All of them; undefined where no command took long enough to be sampled. */
  get rows(): readonly UsageSample[] | undefined {
    return this.#rows.length === 0 ? undefined : this.#rows;
  }

  /** Samples a sandbox until the answer is disposed of. */
  watch(read: () => CgroupUsage): Disposable {
    let timer: NodeJS.Timeout | undefined;
    const next = () => {
      timer = setTimeout(() => {
        this.#take(read());
        next();
      }, this.#pause);
      timer.unref();
    };
    if (this.isOn) next();
    return {
      [Symbol.dispose]: () => {
        clearTimeout(timer);
        const last = this.#rows.at(-1);
        if (last !== undefined) {
          this.#before = { cpuMs: last.cpuMs, read: last.read, written: last.written };
        }
      },
    };
  }

  #take({ cpuMicroseconds = 0, memoryBytes = 0, readBytes = 0, writtenBytes = 0 }: CgroupUsage) {
    const before = this.#before;
    this.#rows.push({
      ms: Math.round(performance.now() - this.#zero),
      cpuMs: before.cpuMs + Math.round(cpuMicroseconds / 1000),
      memory: memoryBytes,
      read: before.read + readBytes,
      written: before.written + writtenBytes,
    });
    if (this.#rows.length <= KEPT) return;
    this.#rows = this.#rows.filter((_, at) => at % 2 === 0);
    this.#pause *= 2;
  }
}
