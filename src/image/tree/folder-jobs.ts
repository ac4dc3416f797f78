import { fchmodSync, futimesSync } from 'node:fs';
import { linkat } from '../../kernel/at.ts';
import { hasErrno } from '../../kernel/libc.ts';

/** A folder of a tree that is made but for its links, which come from others, its mode and its time. */
export interface FolderJob {
  /** It is open; whoever asks keeps all descriptors open. */
  readonly target: number;
  readonly links: readonly Links[];
  readonly mode: number;
  /** Of last change, seconds since 1970; null: as it is. */
  readonly time: number | null;
}

interface Links {
  /** The open folder that has the same names. */
  readonly source: number;
  /** Joined by `/`, which is in no name: one text crosses to a thread faster than many. */
  readonly names: string;
}

/** A link that cannot be made: the file has as many as its file system allows, 65,000 on ext4. */
export interface RefusedLink {
  /** Index of the job. */
  readonly job: number;
  readonly source: number;
  readonly name: string;
}

/** Finishes folders, but for links that are refused. @throws SyscallError, or Node's own error */
export function finishFolders(jobs: readonly FolderJob[]): RefusedLink[] {
  const refused: RefusedLink[] = [];
  for (const [job, folder] of jobs.entries()) {
    for (const { source, names } of folder.links) {
      for (const name of names.split('/')) {
        if (!link(source, folder.target, name)) refused.push({ job, source, name });
      }
    }
    setModeAndTime(folder.target, folder);
  }
  return refused;
}

/** What comes last: the mode, for which the umask does not count, and the time. */
export function setModeAndTime(fd: number, { mode, time }: Pick<FolderJob, 'mode' | 'time'>): void {
  fchmodSync(fd, mode);
  if (time !== null) futimesSync(fd, time, time);
}

/** False if the file has too many links already. @throws SyscallError */
export function link(source: number, target: number, name: Buffer | string): boolean {
  try {
    linkat(source, name, target, name);
    return true;
  } catch (error) {
    if (hasErrno(error, 'EMLINK')) return false;
    throw error;
  }
}
