/**
 * The last net of a process: an exception in an event handler, or a rejection that nobody awaits,
 * is printed, and the process ends with status 125. Node's own answer is a stack and status 1, which
 * of `kiln build` means that the package does not build.
 * What the process held is swept by the next kiln, as after a kill.
 */
import { writeSync } from 'node:fs';

/** As podman and docker have it: the program itself failed, not what it ran. */
const FAILED = 125;

type Describe = (error: unknown) => string;

let describe: Describe = plainly;

// Importing this module is enough, so that failures while other modules load are caught as well.
process.on('uncaughtException', (error: unknown) => {
  if (isUnwritableStderr(error)) return;
  try {
    writeSync(2, describe(error));
  } finally {
    process.exit(FAILED);
  }
});

export function describeStrayErrors(better: Describe): void {
  describe = better;
}

function plainly(error: unknown): string {
  if (!(error instanceof Error)) return `${error}\n`;
  const { code, hint } = error as { readonly code?: unknown; readonly hint?: unknown };
  if (typeof code !== 'string' || !code.startsWith('E_')) return `${error.stack}\n`;
  return `kiln: ${error.message} [${code}]\n${hint === undefined ? '' : `  hint: ${hint}\n`}`;
}

/**
 * Nobody can be told that stderr cannot be written to, and what was asked for can still be done. No
 * other stream of kiln's is without a listener; listening to this one would take each start a millisecond.
 */
function isUnwritableStderr(error: unknown): boolean {
  const { syscall, path } = error as NodeJS.ErrnoException;
  return error instanceof Error && syscall === 'write' && path === undefined;
}
