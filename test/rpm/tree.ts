import { hash } from 'node:crypto';
import { closeSync, lstatSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { getXattr } from '../../src/host/calls/descriptor.ts';

/** All that can be seen of one path of a tree. */
export interface Seen {
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  readonly mtime: number;
  /** Content's digest, or a link's target. */
  readonly content: string;
  /** The other names of the same inode, itself among them. */
  readonly links: string;
  readonly caps: string;
}

/** Describes everything below a directory, but not what is below `except`. */
export function lookAt(root: string, except: readonly string[] = []): Record<string, Seen> {
  const paths = namesBelow(root, '')
    .filter((path) => !except.some((other) => path === other || path.startsWith(`${other}/`)))
    .sort();
  const inodes = new Map<number, string[]>();
  const at = (path: string) => Buffer.from(join(root, path), 'latin1');
  for (const path of paths) {
    const { ino } = lstatSync(at(path));
    inodes.set(ino, [...(inodes.get(ino) ?? []), path]);
  }
  return Object.fromEntries(
    paths.map((path) => {
      const stat = lstatSync(at(path));
      let content = '';
      let caps = '';
      if (stat.isSymbolicLink()) content = readlinkSync(at(path), 'latin1');
      if (stat.isFile()) {
        content = hash('sha256', readFileSync(at(path)), 'hex');
        const fd = openSync(at(path), 'r');
        caps = getXattr(fd, 'security.capability')?.toString('hex') ?? '';
        closeSync(fd);
      }
      const seen: Seen = {
        mode: stat.mode.toString(8),
        uid: stat.uid,
        gid: stat.gid,
        mtime: Math.floor(stat.mtimeMs / 1000),
        content,
        links: inodes.get(stat.ino)!.join(' '),
        caps,
      };
      return [path, seen];
    }),
  );
}

/** Names as latin1: a character for each byte, whatever the bytes are. */
function namesBelow(root: string, directory: string): string[] {
  const path = Buffer.from(join(root, directory), 'latin1');
  return readdirSync(path, { withFileTypes: true, encoding: 'buffer' }).flatMap((entry) => {
    const name = join(directory, entry.name.toString('latin1'));
    return entry.isDirectory() ? [name, ...namesBelow(root, name)] : [name];
  });
}
