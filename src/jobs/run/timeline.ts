import { trace } from '../../host/trace/trace.ts';
import { type UsageSample, UsageSamples } from './usage-samples.ts';

/** A named part of a run. Times in milliseconds; `start` counts from the beginning of the run. */
export interface Phase {
  readonly name: string;
  readonly start: number;
  readonly duration: number;
}

/** When a job began, and what came then. */
export interface Course {
  readonly started: Date;
  readonly phases: readonly Phase[];
  /** Absent where no command took long enough. */
  readonly samples?: readonly UsageSample[] | undefined;
}

/** Measures the phases of a run, and knows which one is under way. */
export class Timeline {
  readonly started = new Date();
  readonly phases: Phase[] = [];
  current = 'plan';
  /** The first phase that failed. */
  failed: string | undefined;
  readonly #zero = performance.now();
  /** What its sandboxes used meanwhile. */
  readonly samples = new UsageSamples(this.#zero);

  /** As far as it has come. */
  get course(): Course {
    return { started: this.started, phases: this.phases, samples: this.samples.rows };
  }

  /** Notes a part that began at `from` (of performance.now()) and ends now. */
  note(name: string, from: number): void {
    trace(name, from, performance.now());
    this.phases.push({
      name,
      start: rounded(from - this.#zero),
      duration: rounded(performance.now() - from),
    });
  }

  /** Runs `work` as the phase `name`; it is noted even when it fails. */
  async measure<Result>(name: string, work: () => Promise<Result>): Promise<Result> {
    this.current = name;
    const start = performance.now();
    try {
      return await work();
    } catch (error) {
      this.failed ??= name;
      throw error;
    } finally {
      this.note(name, start);
    }
  }
}

/** To a microsecond. */
function rounded(milliseconds: number): number {
  return Math.round(milliseconds * 1000) / 1000;
}
