/**
 * A way for the confined child to its own program where the way is barred: the ids it is mapped to
 * are others to every file of the host, and a checkout in root's home may be passed by root alone.
 */
import { statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { nodePath } from '../kernel/own-node.ts';
import { packageRoot } from '../state/package-root.ts';

/** Where the child finds things in the mount namespace made for it; it needs nothing of /run. */
const PLACE = '/run';

/**
 * Run by root in a mount namespace of its own, which ends with the child: $1 kiln, $2 Node, $3 the child's
 * ids. The mounts are ID-mapped (X-mount.idmap of mount(8)), so that what only its owner may read is the child's to
 * read. Where the file system takes no ID map (an overlay), they are what they are, and others' rights count: then
 * kiln's folder itself stays behind, which may be closed where these of its folders are not.
 */
const BIND = `set -e
mapped() {
  mount -n --bind -o "ro,X-mount.idmap=b:0:$ids" "$1" "$2" 2>/dev/null
}
kiln=$1 node=$2 ids=$3
mount -n -t tmpfs -o mode=755,size=64k,nosuid,nodev kiln ${PLACE}
mkdir ${PLACE}/kiln
: > ${PLACE}/node
mapped "$node" ${PLACE}/node || mount -n --bind "$node" ${PLACE}/node
mapped "$kiln" ${PLACE}/kiln || {
  cp "$kiln/package.json" ${PLACE}/kiln/
  for part in dist node_modules policy; do
    mkdir ${PLACE}/kiln/$part
    mount -n --bind "$kiln/$part" ${PLACE}/kiln/$part
  done
}
shift 3
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
 * stat calls where everybody may read them, and five milliseconds of the child's start elsewhere.
 *
 * @param ids the child's ids on the host, as the first one and how many
 */
export function passageTo(
  entry: string,
  ids: { readonly base: number; readonly count: number },
): Passage {
  const root = packageRoot();
  const node = nodePath();
  if (process.geteuid?.() !== 0 || [entry, node].every(mayRead)) return { prefix: [], node, entry };
  const mount = ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', BIND, 'sh'];
  return {
    prefix: [...mount, root, node, `${ids.base}:${ids.count}`],
    node: join(PLACE, 'node'),
    entry: join(PLACE, 'kiln', relative(root, entry)),
  };
}

/** May anybody read `file`, which is to say pass all folders above it, too? */
function mayRead(file: string): boolean {
  if ((statSync(file).mode & 0o004) === 0) return false;
  for (let path = dirname(file); ; path = dirname(path)) {
    if ((statSync(path).mode & 0o001) === 0) return false;
    if (path === '/') return true;
  }
}
