/** The rows of the table in docs/performance.md: what kiln does, what it is held against, the goal. */
import type { Row } from './row.ts';
import { buildRows } from './rows/builds.ts';
import { growthRows } from './rows/growth.ts';
import { imageRows } from './rows/images.ts';
import { machineRows } from './rows/machines.ts';
import { manyRows } from './rows/many.ts';
import { memoryRows } from './rows/memory.ts';
import { packageRows } from './rows/packages.ts';
import { remoteRows } from './rows/remote.ts';
import { resultRows } from './rows/results.ts';
import { runRows } from './rows/run.ts';
import { snapshotRows } from './rows/snapshots.ts';

export const rows: readonly Row[] = [
  ...runRows,
  ...remoteRows,
  ...manyRows,
  ...buildRows,
  ...resultRows,
  ...packageRows,
  ...imageRows,
  ...memoryRows,
  ...growthRows,
  ...snapshotRows,
  ...machineRows,
];
