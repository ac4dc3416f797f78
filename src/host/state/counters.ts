/** Numbers that kilnd leaves in memory for `kiln metrics`: one file for each kind, below /run. */
import { join } from 'node:path';
import { attempt, readText } from '../calls/libc.ts';
import { writeWholeSync } from './checked-file.ts';
import type { StatePaths } from './paths.ts';

/** Claims of parked sandboxes count from the boot on; `waiting` is how many commands of each uid wait now. */
type Counters = 'claims' | 'machine-claims' | 'waiting';

type RunFolder = Pick<StatePaths, 'run'>;

function fileOf({ run }: RunFolder, kind: Counters): string {
  return join(run, `${kind}.json`);
}

/** Nobody waits for it: a command goes on where it cannot be written. */
export function writeCounters(
  paths: RunFolder,
  kind: Counters,
  numbers: Readonly<Record<string, number>>,
): void {
  attempt(() => writeWholeSync(fileOf(paths, kind), JSON.stringify(numbers)));
}

export function readCounters(paths: RunFolder, kind: Counters): Record<string, number> {
  const read: unknown = attempt(() => JSON.parse(readText(fileOf(paths, kind)) ?? '{}'));
  if (typeof read !== 'object' || read === null) return {};
  const numbers = Object.entries(read).filter(([, value]) => Number.isFinite(value));
  return Object.fromEntries(numbers) as Record<string, number>;
}
