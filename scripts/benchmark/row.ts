/** What a row of docs/performance.md is made of, and what several of them do. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Bed, KILN } from './bed.ts';
import { execute, type Figures, type Side } from './measure.ts';

/**
 * `ratio`: the first side's median by the second's. `extra`: their difference, milliseconds. `time`
 * (milliseconds) and `memory` (MB): the first side's median, by itself.
 */
export interface Goal {
  readonly kind: 'ratio' | 'extra' | 'time' | 'memory';
  readonly max: number;
  /** What the figures of a ratio are, if not milliseconds. */
  readonly of?: 'memory' | 'number';
}

export type Row = {
  readonly id: string;
  readonly title: string;
  readonly goal: Goal;
  /** Seconds a run: such rows are run less often. */
  readonly slow?: boolean;
  /** It is about machines: measured with `--isolation vm`, and no others are then. */
  readonly isolation?: 'vm';
  /** A command that is not everywhere: without it the row is left out. */
  readonly needs?: string;
} & (
  | {
      /** Unmeasured runs of each side before the first; default 1. */
      readonly warmUps?: number;
      /** kiln first, then what it is held against: they take turns. */
      readonly sides: (bed: Bed) => readonly Side[] | Promise<readonly Side[]>;
    }
  | {
      /** Of the same, where they cannot take turns. `quick`: few runs are enough. */
      readonly measure: (bed: Bed, quick: boolean) => Promise<readonly Figures[]>;
    }
);

export const kilnRun = (bed: Bed, ...args: readonly string[]): Side => ({
  name: 'kiln run',
  run: () => execute([...KILN, 'run', '-r', bed.image, ...args], bed.env),
});

export const parked = (bed: Bed, side: Side): Side => ({ ...side, before: () => bed.park(2) });

/** Milliseconds that a phase took, from result.json. */
export async function phase(directory: string, name: string): Promise<number> {
  const result = JSON.parse(await readFile(join(directory, 'result.json'), 'utf8')) as {
    phases: Array<{ name: string; durationMs: number }>;
  };
  return result.phases.find((one) => one.name === name)?.durationMs ?? Number.NaN;
}
