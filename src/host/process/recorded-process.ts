import { isDead, pidNamespace, startOf } from './process.ts';

/** A process as a record in a file names it. */
export interface RecordedProcess {
  readonly pid: number;
  /** {@link startOf} it: the kernel gives the number to another process later. */
  readonly start: string;
  /** The PID namespace that the number is of. A container may share the state with others. */
  readonly namespace: string;
}

/** Undefined for one that is gone. */
export function recordProcess(pid: number): RecordedProcess | undefined {
  const start = startOf(pid);
  return start === undefined ? undefined : { pid, start, namespace: pidNamespace() };
}

/** Also false for one of another PID namespace, which nobody here can tell of. */
export function isRunning({ pid, start, namespace }: RecordedProcess): boolean {
  return namespace === pidNamespace() && startOf(pid) === start && !isDead(pid);
}

/** Also false for one of another PID namespace. */
export function hasEnded(process: RecordedProcess): boolean {
  return process.namespace === pidNamespace() && !isRunning(process);
}
