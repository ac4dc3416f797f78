import { KilnError } from '../errors.ts';

/** The error for a result directory that cannot be used: E_RESULTDIR. */
export function unusableResultDirectory(path: string, cause: unknown): KilnError {
  return new KilnError('E_RESULTDIR', `the result directory ${path} cannot be used`, {
    hint: 'name a directory that can be written, with room for the artifacts',
    cause,
  });
}
