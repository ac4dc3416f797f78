/** What a new file is by itself, so that nobody has to make it so. */
import { fstatSync, readFileSync } from 'node:fs';
import { getXattr } from '../kernel/xattr.ts';
import type { Owner } from './destination.ts';

/** How files are made in a directory, and in those made below it. */
export interface Birth {
  /** Who gets them afterwards; undefined if they are born as theirs. */
  readonly owner?: Owner;
  /** The permission bits that a new file keeps of those it is made with. */
  readonly modes: number;
}

/** Finds out, for a directory that was just made, what becomes of `owner`'s files in it. */
export function birthIn(directory: number, owner: Owner): Birth {
  const { uid, gid } = fstatSync(directory);
  // The group is the process's, or the directory's: setgid in inode(7), bsdgroups in ext4(5).
  const born = { uid: process.geteuid?.(), gid: process.getegid?.() };
  const same = [born, { uid, gid }].every((one) => one.uid === owner.uid && one.gid === owner.gid);
  // Where there is a default ACL, it says what a new file's mode is, instead of the umask (acl(5)).
  const ruled = getXattr(directory, 'system.posix_acl_default') !== undefined;
  return {
    ...(same ? {} : { owner }),
    modes: ruled ? 0 : 0o777 & ~umask(),
  };
}

/** Without changing it, as Node's own call does for a moment, for all threads. */
function umask(): number {
  const [, octal = '777'] =
    /^Umask:\s*(\d+)$/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? [];
  return Number.parseInt(octal, 8);
}
