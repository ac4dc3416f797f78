import { CommanderError } from 'commander';
import { EXIT_STATUS } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';
import { signalNumber } from '../../sandbox/command/process.ts';
import type { CommandEnd } from '../../sandbox/door/supervise.ts';

/** The status of kiln's own failures, as with podman and docker. */
export const KILN_FAILED = 125;
/** As with timeout(1). */
const TIMED_OUT = 124;
/** As in a shell. */
const SIGNALLED = 128;

/** The exit status for an error of kiln's, including usage errors. */
export function exitStatus(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : KILN_FAILED;
  if (!(error instanceof KilnError)) return KILN_FAILED;
  return EXIT_STATUS[error.code] ?? KILN_FAILED;
}

/** The exit status for the end of a command: its own, if it has one. */
export function commandStatus(end: CommandEnd): number {
  if (end.timeLimit !== null) return TIMED_OUT;
  if (end.signal !== null) return SIGNALLED + signalNumber(end.signal);
  return end.exitCode ?? KILN_FAILED;
}
