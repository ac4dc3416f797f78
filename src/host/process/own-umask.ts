import { readFileSync } from 'node:fs';

/** Files that kiln keeps have the modes in the code. */
const WORKING = 0o022;

let callers: number | undefined;

/**
 * A program of kiln's calls this first. Afterwards the caller's umask counts only for what the caller asked
 * for: {@link callerMode}. A library leaves its process's umask alone and sets the modes that matter.
 */
export function takeUmask(): void {
  callers ??= process.umask(WORKING);
}

export function takeCallersUmask(umask: number): void {
  callers = umask;
}

export function withCallersUmask(argv: readonly string[]): readonly string[] {
  if (callers === undefined || callers === WORKING) return argv;
  return ['/bin/sh', '-c', 'umask "$0"; exec "$@"', callers.toString(8).padStart(4, '0'), ...argv];
}

/** For what cannot be given a mode, as bind(2). Until `act` returns, all threads of this process have the umask. */
export function withUmask(umask: number, act: () => void): void {
  const before = process.umask(umask);
  try {
    act();
  } finally {
    process.umask(before);
  }
}

/** The caller named the place, such as a result's. */
export function callerMode(mode: number): number {
  return mode & ~(callers ?? ofProcess());
}

/** process.umask() would change a library's process for a moment, for all threads. */
function ofProcess(): number {
  const status = readFileSync('/proc/self/status', 'latin1');
  return Number.parseInt(/^Umask:\s*([0-7]+)$/m.exec(status)?.[1] ?? '0', 8);
}
