import { readFileSync } from 'node:fs';

/** What kiln works with: what it keeps has the modes that the code says. */
const WORKING = 0o022;

/** The caller's, once it has been taken. */
let callers: number | undefined;

/**
 * The first thing a program of kiln's does. From here on the caller's umask decides for nothing but
 * the files that the caller asked for: {@link callerMode}. A library leaves its process's umask alone, and
 * sets the modes that matter.
 */
export function takeUmask(): void {
  callers ??= process.umask(WORKING);
}

/** The same, where the caller is another process, whose umask that is. */
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

/** A library's process keeps its own. process.umask() would change it for a moment, for all threads. */
function ofProcess(): number {
  const status = readFileSync('/proc/self/status', 'latin1');
  return Number.parseInt(/^Umask:\s*([0-7]+)$/m.exec(status)?.[1] ?? '0', 8);
}
