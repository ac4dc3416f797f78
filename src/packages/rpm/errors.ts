import { KilnError } from '../../errors.ts';

/**
 * What is wrong with an .rpm file:
 * - E_RPM_FORMAT: it is no RPM package, is cut off, or breaks the format;
 * - E_RPM_DIGEST: bytes differ from the digest the package gives for them;
 * - E_RPM_SIGNATURE: it is not signed, or not by a key that is trusted;
 * - E_RPM_HOSTILE: whole, but unpacking it would do harm;
 * - E_RPM_UNSUPPORTED: valid, but nothing kiln can read.
 */
export type RpmErrorCode =
  | 'E_RPM_FORMAT'
  | 'E_RPM_DIGEST'
  | 'E_RPM_SIGNATURE'
  | 'E_RPM_HOSTILE'
  | 'E_RPM_UNSUPPORTED';

/** Makes a KilnError for an .rpm file. */
export function rpmError(
  code: RpmErrorCode,
  message: string,
  options: { readonly hint?: string; readonly cause?: unknown } = {},
): KilnError {
  return new KilnError(code, message, options);
}
