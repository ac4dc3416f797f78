/** Errors across the pipe: flattened in the child, rebuilt in the parent, which believes nothing. */
import { isErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { DISK_FULL, isDiskFull, knownFailure, reasonLine } from '../kernel/system-error.ts';
import type { FlatError } from './task.ts';

/** A message that a person reads has no use for more characters. */
const MAX_TEXT = 4096;
const MAX_CAUSES = 8;

/** An error as plain data. One that is no KilnError is a bug: its stack goes along. */
export function flattenError(error: unknown): FlatError {
  const causes: string[] = [];
  for (
    let cause = error instanceof Error ? error.cause : undefined;
    cause instanceof Error && causes.length < MAX_CAUSES;
    cause = cause.cause
  ) {
    causes.push(reasonLine(cause));
  }
  const known = knownFailure(error);
  if (known === undefined) {
    if (isDiskFull(error)) {
      return { code: DISK_FULL, message: 'no space left on the device', causes };
    }
    const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { code: 'E_INTERNAL', message, causes };
  }
  return {
    code: known.code,
    message: known.message,
    causes,
    ...(known.hint === undefined ? {} : { hint: known.hint }),
    ...(known.details === undefined ? {} : { details: known.details }),
  };
}

/** Rebuilds what {@link flattenError} made; whatever does not look like it is replaced or cut. */
export function rebuildError(value: unknown): KilnError {
  const flat = (typeof value === 'object' && value !== null ? value : {}) as Partial<FlatError>;
  const code = isErrorCode(flat.code) ? flat.code : 'E_CONFINE_PROTOCOL';
  const causes = Array.isArray(flat.causes) ? flat.causes.slice(0, MAX_CAUSES) : [];
  let cause: Error | undefined;
  for (const text of causes.reverse()) {
    cause = new Error(printable(text), cause === undefined ? undefined : { cause });
  }
  return new KilnError(code, printable(flat.message), {
    ...(flat.hint === undefined ? {} : { hint: printable(flat.hint) }),
    ...(cause === undefined ? {} : { cause }),
    ...(typeof flat.details === 'object' && flat.details !== null ? { details: flat.details } : {}),
  });
}

/** The same error with the file's name in front. */
export function aboutFile(file: string, error: KilnError): KilnError {
  return new KilnError(error.code, `${file}: ${error.message}`, {
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(error.details === undefined ? {} : { details: error.details }),
    cause: error.cause,
  });
}

/** Text that cannot drive a terminal. */
function printable(text: unknown): string {
  return String(text ?? 'no reason given')
    .slice(0, MAX_TEXT)
    .replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, '\ufffd');
}
