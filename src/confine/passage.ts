/**
 * A way for the confined child to its own program where the way is barred: the ids it is mapped to
 * are others to every file of the host, and a checkout in root's home may be passed by root alone.
 */
import { statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { KilnError } from '../errors.ts';
import { nodePath } from '../kernel/own-node.ts';
import { packageRoot } from '../state/package-root.ts';

/** Where the child finds things in the mount namespace made for it; it needs nothing of /run. */
const PLACE = '/run';

/** Run by root in a mount namespace of its own, which ends with the child: $1 kiln, $2 Node. */
const BIND = `set -e
mount -n -t tmpfs -o mode=755,size=64k,nosuid,nodev kiln ${PLACE}
mkdir ${PLACE}/kiln
: > ${PLACE}/node
mount -n --bind "$1" ${PLACE}/kiln
mount -n --bind "$2" ${PLACE}/node
shift 2
# The shell has put variables of its own into the environment.
exec env -i PATH="$PATH" "$@"`;

/** How to start a program of kiln's for ids that are others to every file. */
export interface Passage {
  /** Words before the command that needs `node` and `entry`; empty where the way is open. */
  readonly prefix: readonly string[];
  readonly node: string;
  readonly entry: string;
}

/**
 * The way to `entry`, a module below kiln's own folder, and to the Node that runs it. Costs a few
 * stat calls where every folder may be passed, and five milliseconds of the child's start elsewhere.
 * @throws KilnError E_INSTALLATION where it could read neither
 */
export function passageTo(entry: string): Passage {
  const root = packageRoot();
  const node = nodePath();
  if (process.geteuid?.() === 0) for (const file of [entry, node]) requireReadable(file, root);
  if (process.geteuid?.() !== 0 || (mayPass(dirname(entry)) && mayPass(dirname(node)))) {
    return { prefix: [], node, entry };
  }
  const mount = ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', BIND, 'sh'];
  return {
    prefix: [...mount, root, node],
    node: join(PLACE, 'node'),
    entry: join(PLACE, 'kiln', relative(root, entry)),
  };
}

/** No way leads into a file that its owner alone may read, as all are in a clone made under umask 077. */
function requireReadable(file: string, root: string): void {
  if ((statSync(file).mode & 0o004) !== 0) return;
  const folder = file.startsWith(`${root}/`) ? root : dirname(file);
  throw new KilnError('E_INSTALLATION', `${file} can be read by its owner alone`, {
    hint: `chmod -R go+rX '${folder}': kiln reads untrusted files with ids that are nobody’s`,
  });
}

/** May anybody pass `folder` and all its parents? */
function mayPass(folder: string): boolean {
  for (let path = folder; ; path = dirname(path)) {
    if ((statSync(path).mode & 0o001) === 0) return false;
    if (path === '/') return true;
  }
}
