import type { ErrorCode } from './error-codes.ts';

export interface KilnErrorOptions {
  /** What to do next, as an imperative sentence or a command. */
  readonly hint?: string | undefined;
  readonly cause?: unknown;
  /** Facts for machines: printed with `--json`, stored in result.json. */
  readonly details?: Readonly<Record<string, unknown>> | undefined;
}

/**
 * The base of every error kiln raises on purpose.
 *
 * `code` is stable: scripts may match on it, messages may change. error-codes.ts has all of them.
 * An error that is not a KilnError is a bug in kiln.
 */
export class KilnError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>> | undefined;

  constructor(code: ErrorCode, message: string, options: KilnErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
    this.details = options.details;
  }
}

export function isKilnCode(error: unknown, ...codes: readonly ErrorCode[]): error is KilnError {
  return error instanceof KilnError && codes.includes(error.code);
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
