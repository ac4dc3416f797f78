import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';

/** A KilnError on its way through a socket. */
export interface WiredError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
}

/** An error as it is sent. */
export function wired(error: unknown): WiredError {
  if (error instanceof KilnError) {
    const { code, message, hint } = error;
    return { code, message, ...(hint === undefined ? {} : { hint }) };
  }
  return { code: 'E_INTERNAL', message: error instanceof Error ? error.message : String(error) };
}
