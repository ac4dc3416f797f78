import { knownFailure, reasonLine } from '../kernel/system-error.ts';
import { processCaller, type TextOutput } from './caller.ts';
import { plainText } from './print.ts';

/** How many causes are shown. */
const MAX_CAUSES = 8;

/** Prints an error for a person: what failed, why (the chain of causes), what to do next. */
export function printError(error: unknown, to: TextOutput = processCaller.stderr): void {
  to.say(describeError(error));
}

/** An error in words, in lines. What kiln did not expect comes with its stack, for a report. */
export function describeError(error: unknown): string {
  const known = knownFailure(error);
  if (known === undefined) {
    return plainText(`kiln: internal error: ${error instanceof Error ? error.stack : error}\n`);
  }
  let text = `kiln: ${known.message}\n`;
  // A failure of the system is in the message already.
  let cause = known === error ? known.cause : undefined;
  for (let n = 0; n < MAX_CAUSES && cause instanceof Error; n++, cause = cause.cause) {
    text += `  because: ${reasonLine(cause)}\n`;
  }
  if (known.hint !== undefined) text += `  hint: ${known.hint}\n`;
  return plainText(text);
}
