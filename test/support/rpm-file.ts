import type { RpmFile } from '../../src/packages/rpm/package.ts';

/** A plain file of five bytes, root's, but for what is given. */
export function rpmFile(path: string, other: Partial<RpmFile> = {}): RpmFile {
  return {
    ...{ path, type: 'file', mode: 0o100640, owner: 'root', group: 'root', size: 5, mtime: 0 },
    ...{ digest: null, linkTarget: null, flags: [], caps: null, device: 1 },
    ...{ inode: 1, nlink: 1, rdev: 0 },
    ...other,
  };
}
