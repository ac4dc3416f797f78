/** What a new file is by itself, so that nobody has to make it so. */
import { constants, fstatSync } from 'node:fs';
import { openat2, unlinkat } from '../kernel/at.ts';
import { closeDescriptor } from '../kernel/descriptor.ts';
import type { Owner } from './destination.ts';

/** How files are made in a directory, and in those made below it. */
export interface Birth {
  /** Who gets them afterwards; undefined if they are born as theirs. */
  readonly owner?: Owner;
  /** The permission bits that a new file keeps of those it is made with. */
  readonly modes: number;
}

const PROBE = '.birth';
const TO_PROBE = {
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode: 0o777,
};

/**
 * Finds out, by trying, what becomes of `owner`'s files in an empty directory that is ours alone: there are the
 * umask, default ACLs, setgid directories, and file systems that decide themselves.
 * @throws SyscallError
 */
export function birthIn(directory: number, owner: Owner): Birth {
  const probe = openat2(directory, PROBE, TO_PROBE);
  try {
    const { uid, gid, mode } = fstatSync(probe);
    const same = uid === owner.uid && gid === owner.gid;
    return { ...(same ? {} : { owner }), modes: mode & 0o777 };
  } finally {
    closeDescriptor(probe);
    unlinkat(directory, PROBE);
  }
}
