import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { trace } from '../../host/trace/trace.ts';
import type { Result } from '../../result/schema.ts';

/** A named part of a run. Times in milliseconds; `start` counts from the beginning of the run. */
export interface Phase {
  readonly name: string;
  readonly start: number;
  readonly duration: number;
}

export interface Course {
  readonly started: Date;
  readonly phases: readonly Phase[];
  readonly samples?: readonly UsageSample[] | undefined;
}

/** Milliseconds from the start to the end of the last phase. */
export function lengthOf(phases: readonly Phase[]): number {
  return Math.max(0, ...phases.map(({ start, duration }) => start + duration));
}

export type PhaseEvent = 'start' | 'finish' | 'fail';

/** The phases of a job, one after the other. */
export class Timeline {
  readonly started = new Date();
  readonly phases: Phase[] = [];
  current = 'plan';
  failed: string | undefined;
  #since: number | undefined;
  readonly #zero = performance.now();
  readonly samples = new UsageSamples(this.#zero);
  /** Hears of each {@link phase}. */
  tell: ((phase: string, event: PhaseEvent) => void) | undefined;

  /** Until now; phases that come later are added to its list. */
  get course(): Course {
    this.leave();
    return { started: this.started, phases: this.phases, samples: this.samples.rows };
  }

  /** Begins a phase, which ends the one before. */
  enter(name: string): void {
    this.leave();
    this.current = name;
    this.#since = performance.now();
  }

  async phase<Result>(name: string, work: () => Promise<Result>): Promise<Result> {
    this.tell?.(name, 'start');
    this.enter(name);
    try {
      const result = await work();
      this.leave();
      this.tell?.(name, 'finish');
      return result;
    } catch (error) {
      this.fail();
      this.tell?.(name, 'fail');
      throw error;
    }
  }

  leave(): void {
    if (this.#since !== undefined) this.note(this.current, this.#since);
    this.#since = undefined;
  }

  /** The job has failed in this phase: what comes now is cleaning up. */
  fail(phase: string = this.current): void {
    this.leave();
    this.failed ??= phase;
  }

  note(name: string, from: number): void {
    trace(name, from, performance.now());
    this.phases.push({
      name,
      start: rounded(from - this.#zero),
      duration: rounded(performance.now() - from),
    });
  }
}

function rounded(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}

type UsageSample = NonNullable<Result['samples']>[number];

/** The shortest pause between two samples, milliseconds. */
const PAUSE = 200;
/** Samples that are kept. Where there are more, every second one goes, and pauses get twice as long. */
const KEPT = 1000;

class UsageSamples {
  #rows: UsageSample[] = [];
  #pause = PAUSE;
  isOn = true;
  readonly #zero: number;
  #before: UsageSample = { ms: 0, cpuMs: 0, memory: 0, read: 0, written: 0 };

  constructor(zero: number) {
    this.#zero = zero;
  }

  get rows(): readonly UsageSample[] | undefined {
    return this.#rows.length === 0 ? undefined : this.#rows;
  }

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
        this.#before = this.#rows.at(-1) ?? this.#before;
      },
    };
  }

  #take({ cpuMicroseconds = 0, memoryBytes = 0, readBytes = 0, writtenBytes = 0 }: CgroupUsage) {
    const before = this.#before;
    this.#rows.push({
      ms: Math.round(performance.now() - this.#zero),
      // Not rounded up: what a command took in the end is no less.
      cpuMs: before.cpuMs + Math.floor(cpuMicroseconds / 1000),
      memory: memoryBytes,
      read: before.read + readBytes,
      written: before.written + writtenBytes,
    });
    if (this.#rows.length <= KEPT) return;
    this.#rows = this.#rows.filter((_, at) => at % 2 === 0);
    this.#pause *= 2;
  }
}
