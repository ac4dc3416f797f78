import type { Engine } from '../engine.ts';
import { reasonOf } from '../errors.ts';
import type { StatePaths } from '../host/state/paths.ts';
import type { Host } from './host.ts';

/** `fail`: no job can run. `warn`: a part of kiln or a layer of defence is missing, or soon will be. */
type Status = 'ok' | 'warn' | 'fail';

/** What a check may look at: it never reads the environment of its own process (os.tmpdir() does). */
export interface CheckContext {
  readonly paths: StatePaths;
  /** Of the caller; of kilnd, for a call of the API. */
  readonly env: NodeJS.ProcessEnv;
  readonly host: Host;
  /** The user who asked: what a check starts is theirs, and within their share. */
  readonly owner: Engine['owner'];
}

export interface Finding {
  readonly status: Status;
  readonly found: string;
  readonly problem?: string;
  readonly mend?: string;
}

export interface Check {
  /** Stable, for scripts: lower case, words joined by `-`. */
  readonly name: string;
  /**
   * What it finds is true without root and without /proc, too. Without root any other finding only says that
   * the host cannot be judged, and to run it as root; without /proc no other check is made.
   */
  readonly isForAnybody?: true;
  /**
   * Never throws for a fault of the host, which is a finding.
   * @param isNamed the caller has asked for this check, which may take its time then
   */
  readonly run: (context: CheckContext, isNamed: boolean) => Promise<Finding>;
}

export interface CheckResult extends Finding {
  readonly name: string;
}

export function ok(found: string): Finding {
  return { status: 'ok', found };
}

export function fail(found: string, problem: string, mend: string): Finding {
  return { status: 'fail', found, problem, mend };
}

export function warn(found: string, problem: string, mend: string): Finding {
  return { status: 'warn', found, problem, mend };
}

export function reason(error: unknown): string {
  return reasonOf(error).split('\n')[0] ?? '';
}
