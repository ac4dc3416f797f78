import { readRecordOrSetAside, withFields, writeRecord } from '../state/checked-file.ts';
import type { InstanceFiles } from './instance-files.ts';

/** How the last run of a service ended (outcome.json). */
export interface Outcome {
  /** `stopped`: somebody wanted it. `finished`: its units are done. `failed`: they cannot go on. */
  readonly state: 'stopped' | 'finished' | 'failed';
  readonly reason: string;
  /** What to do about it, where that is known. */
  readonly hint?: string;
  /** Milliseconds since 1970. */
  readonly time: number;
}

export async function writeOutcome(
  files: InstanceFiles,
  state: Outcome['state'],
  reason: string,
  hint?: string,
): Promise<void> {
  const outcome = { state, reason, ...(hint === undefined ? {} : { hint }), time: Date.now() };
  writeRecord(files.outcome, outcome satisfies Outcome, { flush: true });
}

const takeOutcome = withFields<Outcome>({ state: 'string', reason: 'string', time: 'number' });

/** Undefined when it has never ended, or when what was noted of that is damaged. */
export async function readOutcome(files: InstanceFiles): Promise<Outcome | undefined> {
  return readRecordOrSetAside(files.outcome, takeOutcome);
}
