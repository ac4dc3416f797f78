import { writeSync } from 'node:fs';

/** As podman and docker have it: the program itself failed, not what it ran. */
const FAILED = 125;

/**
 * The last net of a process: an exception in an event handler, or a rejection that nobody awaits,
 * is printed as `describe` says, and the process ends with status 125. Node's own answer is a stack
 * and status 1, which of `kiln build` means that the package does not build.
 * What it held is swept by the next kiln, as after a kill.
 */
export function endOnStrayErrors(describe: (error: unknown) => string = stackOf): void {
  process.on('uncaughtException', (error: unknown) => {
    if (isUnwritableStderr(error)) return;
    try {
      writeSync(2, describe(error));
    } finally {
      process.exit(FAILED);
    }
  });
}

function stackOf(error: unknown): string {
  return `${error instanceof Error ? error.stack : error}\n`;
}

/**
 * Nobody can be told that stderr cannot be written to, and what was asked for can still be done. No
 * other stream of kiln's is without a listener; listening to this one would take each start a millisecond.
 */
function isUnwritableStderr(error: unknown): boolean {
  const { syscall, path } = error as NodeJS.ErrnoException;
  return error instanceof Error && syscall === 'write' && path === undefined;
}
