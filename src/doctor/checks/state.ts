import { access, constants, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { hasErrno } from '../../kernel/libc.ts';
import { type Check, fail, ok, warn } from '../check.ts';
import { mountOf } from '../host.ts';

const GIB = 2 ** 30;
/** An image of a build root, its packages, and a build in it. */
const NEEDED = 2 * GIB;
const COMFORTABLE = 10 * GIB;
/** Inodes of two such images. */
const NEEDED_FILES = 50_000;

/** KILN_STATE: reachable by the ids of boxes, executable, with room. */
export const stateDirectory: Check = {
  name: 'state-directory',
  async run({ paths }) {
    const root = await nearestExisting(paths.root);
    const mount = await mountOf(root);
    const space = await statfs(root);
    const free = space.bavail * space.bsize;
    const found = `${paths.root}: ${mount.type}, ${(free / GIB).toFixed(1)} GiB free`;

    for (let folder = root; ; folder = dirname(folder)) {
      const { mode, uid } = await stat(folder);
      if ((mode & 0o001) === 0) {
        return fail(
          found,
          `boxes cannot reach their image: ${folder} may not be passed by others`,
          `chmod o+x ${folder}, or set KILN_STATE to another place`,
        );
      }
      if ((mode & 0o002) !== 0 && (mode & 0o1000) === 0) {
        return fail(
          found,
          `everybody may replace the store: ${folder} is writable by others`,
          `chmod o-w ${folder}, or set KILN_STATE to another place`,
        );
      }
      if (folder === root && root === paths.root && uid !== (process.geteuid?.() ?? uid)) {
        return fail(found, `${root} belongs to uid ${uid}`, `chown -R root: ${root}`);
      }
      if (folder === '/') break;
    }
    const refused = await access(root, constants.W_OK).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (refused !== undefined) {
      const how = hasErrno(refused, 'EROFS') ? 'is read-only' : 'is not writable';
      return fail(found, `${root} ${how}`, 'set KILN_STATE to a directory that can be written');
    }
    if (mount.options.includes('noexec')) {
      return fail(
        found,
        `${mount.path} is mounted noexec: nothing in an image can be executed`,
        `mount -o remount,exec ${mount.path}, or set KILN_STATE to another place`,
      );
    }
    const freeFiles = space.files === 0 ? Number.POSITIVE_INFINITY : space.ffree;
    if (free < NEEDED || freeFiles < NEEDED_FILES) {
      const lacks = free < NEEDED ? 'space' : 'inodes';
      return fail(
        found,
        `too little ${lacks} for one image: ${NEEDED / GIB} GiB and ${NEEDED_FILES} inodes are needed`,
        'kiln gc, or set KILN_STATE to a larger file system',
      );
    }
    if (free < COMFORTABLE) {
      return warn(found, 'room for few images', 'kiln gc, or a larger file system for KILN_STATE');
    }
    return ok(found);
  },
};

/** The path itself, or the first parent of it that exists: kiln makes the rest. */
export async function nearestExisting(path: string): Promise<string> {
  for (let folder = path; ; folder = dirname(folder)) {
    const found = await stat(folder).catch(() => undefined);
    if (found?.isDirectory() || folder === '/') return folder;
  }
}
