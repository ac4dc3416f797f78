import { KilnError } from '../../../../errors.ts';

/** A place in a configuration file. */
export interface Place {
  readonly file: string;
  /** Counted from 1. */
  readonly line: number;
}

/** A part of a configuration that kiln handles differently from mock, and that is safe to leave out. */
export interface ConfigWarning {
  readonly message: string;
  readonly place?: Place | undefined;
}

/** `file:line`, the form that editors link. */
export function formatPlace({ file, line }: Place): string {
  return `${file}:${line}`;
}

/**
 * The error for a configuration that cannot be used, because ignoring the unknown part would change the build.
 */
export function configError(
  message: string,
  place?: Place,
  more: { readonly hint?: string; readonly cause?: unknown } = {},
): KilnError {
  const where = place === undefined ? '' : `${formatPlace(place)}: `;
  return new KilnError('E_MOCK_CONFIG', `${where}${message}`, {
    ...more,
    ...(place === undefined ? {} : { details: { place } }),
  });
}
