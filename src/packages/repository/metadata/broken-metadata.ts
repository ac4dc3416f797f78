import { KilnError } from '../../../errors.ts';

/** The error for an invalid file of metadata: E_REPOSITORY_METADATA. */
export function brokenMetadata(file: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `${file} is broken: ${why}`, {
    cause,
    hint: 'the repository is at fault: try again later, or make its metadata anew (createrepo_c)',
  });
}
