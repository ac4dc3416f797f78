/** Where the next kill goes, and how long after the beginning of its phase. */
import type { Job } from './jobs.ts';
import type { Target } from './victim.ts';

/** A phase of a job. */
interface Point {
  readonly job: Job;
  readonly phase: string;
  /** Both, as `run: sandbox`. */
  readonly key: string;
}

/** How much the newest measurement of a phase's length weighs against those before. */
const NEWEST = 0.3;

/** Chooses phases evenly, in each of them what to kill, and learns how long they take here. */
export class Aim {
  readonly points: readonly Point[];
  readonly #lengths = new Map<string, number>();
  readonly #tries = new Map<string, number>();

  /**
   * @param only the phase to kill in, of whichever job has it
   * @param target what alone is to be killed, in whichever job has it
   */
  constructor(jobs: readonly Job[], only?: string, target?: Target) {
    this.points = jobs
      .filter(({ targets }) => target === undefined || targets.includes(target))
      .flatMap((job) =>
        Object.keys(job.phases)
          .filter((phase) => only === undefined || phase === only)
          .map((phase) => ({ job, phase, key: `${job.name}: ${phase}` })),
      );
    for (const { job } of this.points) {
      for (const [phase, length] of Object.entries(job.phases)) {
        this.#lengths.set(`${job.name}: ${phase}`, length);
      }
    }
  }

  /** The phase with the fewest kills so far, and the targets by turns. */
  next(kills: (key: string) => number): Point & { target: Target; within: number } {
    const [first] = this.points
      .map((point) => ({ point, n: kills(point.key) + Math.random() * 0.9 }))
      .sort((a, b) => a.n - b.n);
    if (first === undefined) throw new Error('no job has that phase and that target');
    const { point } = first;
    const { targets } = point.job;
    const turn = this.#tries.get(point.key) ?? 0;
    this.#tries.set(point.key, turn + 1);
    return {
      ...point,
      // From phase to phase another is the first, so that a short campaign has had them all.
      target: targets[(turn + this.points.indexOf(point)) % targets.length] ?? 'runner',
      within: this.#lengths.get(point.key) ?? 0,
    };
  }

  /** Takes note of how long phases took. */
  learn(job: Job, took: ReadonlyMap<string, number>): void {
    for (const [phase, length] of took) {
      // A composition ends with its scriptlets, which are a phase of their own here.
      const key = `${job.name}: ${phase === 'compose' ? 'scriptlets' : phase}`;
      const known = this.#lengths.get(key);
      if (known !== undefined) this.#lengths.set(key, known + NEWEST * (length - known));
    }
  }
}
