import { statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import type { KilnError } from '../../errors.ts';
import { DISK_FULL, knownFailure, reasonLine } from '../../host/calls/system-error.ts';
import { statePaths } from '../../host/state/paths.ts';
import type { TextOutput } from '../caller/caller.ts';
import { plainText } from './print.ts';

/** The most causes that are shown. */
const MAX_CAUSES = 8;

/** Prints an error for a person: what failed, why (the chain of causes), what to do next. */
export function printError(error: unknown, to: TextOutput): void {
  to.say(describeError(error));
}

/** An error as lines of text. An unexpected error includes its stack, for a report. */
export function describeError(error: unknown): string {
  const known = knownFailure(error);
  if (known === undefined) {
    return plainText(`kiln: internal error: ${error instanceof Error ? error.stack : error}\n`);
  }
  const place = fullPlace(known);
  if (place !== undefined) {
    const hint = place.startsWith('/run/') ? 'make room there: it lies in memory' : known.hint;
    return plainText(`kiln: no space is left on the file system of ${place}\n  hint: ${hint}\n`);
  }
  let text = `kiln: ${known.message}\n`;
  // For a failure of the system, the message has the cause already.
  let cause = known === error ? known.cause : undefined;
  for (let n = 0; n < MAX_CAUSES && cause instanceof Error; n++, cause = cause.cause) {
    const reason = reasonLine(cause);
    if (!text.includes(reason)) text += `  because: ${reason}\n`;
  }
  if (known.hint !== undefined) text += `  hint: ${known.hint}\n`;
  return plainText(text);
}

/** The full file system of kiln's, because the kernel names no file for a failed write. */
function fullPlace({ code, details }: KilnError): string | undefined {
  if (code !== DISK_FULL || details?.call !== 'write' || details.path !== undefined)
    return undefined;
  const { root, hostRun } = statePaths(process.env);
  return [root, hostRun, tmpdir()].find((path) => {
    try {
      return statfsSync(path).bavail === 0;
    } catch {
      return false;
    }
  });
}
