import { KilnError } from '../../../errors.ts';

/** The error for a file of metadata that is not what it should be: E_REPOSITORY_METADATA. */
export function brokenMetadata(file: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `${file} is broken: ${why}`, {
    cause,
    hint: 'the repository is at fault: try again later, or make its metadata anew (createrepo_c)',
  });
}
