import { linkat } from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';

/** Names that are to be in one folder as they are in another. */
export interface LinkJob {
  /** Open folders; whoever asks keeps them open. */
  readonly source: number;
  readonly target: number;
  /** Joined by `/`, which is in no name: one text crosses to a thread faster than many. */
  readonly names: string;
}

export type LinkRequest = readonly LinkJob[];

/** Of each job the names that could not be linked, for there are too many links to the file; or what failed. */
export type LinkAnswer =
  | { readonly refused: readonly (readonly string[])[] }
  | { readonly errno: number };

/** Does jobs in their order; see {@link LinkAnswer}. @throws SyscallError */
export function linkJobs(jobs: LinkRequest): string[][] {
  return jobs.map(({ source, target, names }) =>
    names.split('/').filter((name) => !link(source, target, name)),
  );
}

/** False where the file has as many links as its file system allows: 65,000 on ext4. @throws SyscallError */
export function link(source: number, target: number, name: Buffer | string): boolean {
  try {
    linkat(source, name, target, name);
    return true;
  } catch (error) {
    if (hasErrno(error, 'EMLINK')) return false;
    throw error;
  }
}
