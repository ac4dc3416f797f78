import { KilnError } from '../errors.ts';

/** Prints an error for a person: what failed, why (the chain of causes), what to do next. */
export function printError(error: unknown): void {
  if (!(error instanceof KilnError)) {
    process.stderr.write(`kiln: internal error: ${error instanceof Error ? error.stack : error}\n`);
    return;
  }
  process.stderr.write(`kiln: ${error.message}\n`);
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) {
    process.stderr.write(`  because: ${cause.message}\n`);
  }
  if (error.hint !== undefined) process.stderr.write(`  hint: ${error.hint}\n`);
}
