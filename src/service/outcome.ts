import { readFile } from 'node:fs/promises';
import type { InstanceFiles } from './instance-files.ts';
import { replaceFile } from './replace-file.ts';

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
  await replaceFile(files.outcome, `${JSON.stringify(outcome satisfies Outcome)}\n`);
}

/** Undefined when it has never ended. */
export async function readOutcome(files: InstanceFiles): Promise<Outcome | undefined> {
  const text = await readFile(files.outcome, 'utf8').catch(() => undefined);
  return text === undefined ? undefined : (JSON.parse(text) as Outcome);
}
