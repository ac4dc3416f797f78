import type { StatePaths } from '../host/state/paths.ts';
import type { Host } from './host.ts';

/** `fail`: no job can run. `warn`: a part of kiln does not work, or soon will not. */
type Status = 'ok' | 'warn' | 'fail';

/** What a check may look at; a check never reads the environment itself. */
export interface CheckContext {
  readonly paths: StatePaths;
  readonly env: NodeJS.ProcessEnv;
  readonly host: Host;
}

/** What a check found. */
export interface Finding {
  readonly status: Status;
  /** What was found, in one line: versions, sizes, modes. */
  readonly found: string;
  /** What does not work because of it; absent if the status is `ok`. */
  readonly problem?: string;
  /** The command, or a sentence, that fixes it. */
  readonly mend?: string;
}

/** A check of `kiln doctor`. It leaves no change on the host. */
export interface Check {
  /** Stable, for scripts: lower case, words joined by `-`. */
  readonly name: string;
  /** Never throws for a fault of the host, which is a finding. */
  readonly run: (context: CheckContext) => Promise<Finding>;
}

/** A finding with its check's name, as `--json` prints it. */
export interface CheckResult extends Finding {
  readonly name: string;
}

/** A finding without a problem. */
export function ok(found: string): Finding {
  return { status: 'ok', found };
}

/** A finding that stops every job. */
export function fail(found: string, problem: string, mend: string): Finding {
  return { status: 'fail', found, problem, mend };
}

/** A finding that affects some jobs. */
export function warn(found: string, problem: string, mend: string): Finding {
  return { status: 'warn', found, problem, mend };
}

/** The reason in an error, in one line, for {@link Finding.found}. */
export function reason(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? '';
}
