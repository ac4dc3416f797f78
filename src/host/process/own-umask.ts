import { readFileSync } from 'node:fs';

/** kiln's own umask: files that kiln keeps have the modes in the code. */
const WORKING = 0o022;

/** The caller's, once it has been taken. */
let callers: number | undefined;

/**
 * Takes over the umask; a program of kiln's calls this first. Afterwards the caller's umask counts only for
 * files that the caller asked for: {@link callerMode}. A library leaves its process's umask alone and sets the
 * modes that matter.
 */
export function takeUmask(): void {
  callers ??= process.umask(WORKING);
}

/** Sets the caller's umask where the caller is another process. */
export function takeCallersUmask(umask: number): void {
  callers = umask;
}

/** `argv` with the caller's umask, for a command that is run as the caller. */
export function withCallersUmask(argv: readonly string[]): readonly string[] {
  if (callers === undefined || callers === WORKING) return argv;
  return ['/bin/sh', '-c', 'umask "$0"; exec "$@"', callers.toString(8).padStart(4, '0'), ...argv];
}

/** The mode for a file or folder at a place that the caller named, such as a result. */
export function callerMode(mode: number): number {
  return mode & ~(callers ?? ofProcess());
}

/** A library keeps its process's umask. process.umask() would change it for a moment, for all threads. */
function ofProcess(): number {
  const status = readFileSync('/proc/self/status', 'latin1');
  return Number.parseInt(/^Umask:\s*([0-7]+)$/m.exec(status)?.[1] ?? '0', 8);
}
