import { KilnError } from '../../../errors.ts';

/** The most bytes of a metadata file: as compressed (Fedora's file lists have 60 MiB), and open (800 MiB). */
export const MAX_METADATA: number = 2 ** 30;
export const MAX_OPEN_METADATA: number = 8 * 2 ** 30;

export const COMPRESSIONS = ['none', 'bzip2', 'gzip', 'xz', 'zstd'] as const;
export type Compression = (typeof COMPRESSIONS)[number];

export function metadataError(file: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `${file} is broken: ${why}`, {
    cause,
    hint: 'the repository is at fault: try again later, or make its metadata again (createrepo_c)',
  });
}

/** Whether primary metadata lists a file of this path (createrepo_c's filter); all others are in filelists only. */
export function isPrimaryFile(path: string): boolean {
  return path.startsWith('/etc/') || path.includes('bin/') || path === '/usr/lib/sendmail';
}
