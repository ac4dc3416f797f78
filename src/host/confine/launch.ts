import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import type { Readable } from 'node:stream';
import type { ErrorCode } from '../../error-codes.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { closing } from '../calls/descriptor.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  setMountAttributes,
} from '../files/mount.ts';
import { startProgram } from '../process/child-process.ts';
import { nodeCommand, nodePath } from '../process/own-node.ts';
import { createUserNamespace } from '../process/user-namespace.ts';
import { packageRoot } from '../state/package-root.ts';
import { programPath } from '../state/paths.ts';
import { childFilter } from './filter.ts';
import { USER_NAMESPACE_FD } from './task.ts';

/**
 * systemd's UIDS-GIDS document leaves these ids of the host unused; src/host/state/reservation.ts reserves them. Children
 * share them: each has a user and pid namespace of its own.
 */
export const CONFINED_IDS = { base: 1879048192, count: 65536 };

/**
 * The child unpacks as root of the namespace. It needs SYS_ADMIN only until it has changed its root; then its
 * filter refuses all that SYS_ADMIN allows.
 */
const CAPABILITIES = ['chown', 'dac_override', 'fowner', 'fsetid', 'setfcap', 'sys_admin'];

/** V8's heap, MiB: headers become objects there; payloads never do. */
const HEAP_MB = 768;

interface LaunchOptions {
  readonly task: string;
  readonly destination?: string | undefined;
  readonly fds: readonly number[];
  readonly entry?: string | undefined;
  /** The child's ids on the host, instead of those that no file has: of a sandbox whose files it reads. */
  readonly ids?: { readonly base: number; readonly count: number } | undefined;
  /** Another program than kiln's own: it speaks as kiln's do, and encloses itself as they do (child.ts). */
  readonly command?: readonly string[] | undefined;
  /** The same, one that lies in dist/ and takes its input as it is. */
  readonly program?: string | undefined;
}

/**
 * Starts the child, which waits for a request on its stdin and replies on `stdio[3]`. kiln sees util-linux's
 * unshare: killing it kills the child, pid 1 of its own pid namespace, and everything in that; the kernel kills
 * it when kiln dies.
 */
export function launchConfined(options: LaunchOptions): ChildProcess {
  // Nothing is started that would wait for a filter in vain.
  childFilter();
  using opened = new DisposableStack();
  const open = (fd: number) => opened.use(closing(fd)).fd;
  try {
    const { ids } = options;
    const users = mapping(process.geteuid?.(), ids);
    const groups = mapping(process.getegid?.(), ids);
    const userNamespace = open(createUserNamespace([users], [groups]));
    let destination: number | 'ignore' = 'ignore';
    if (options.destination !== undefined) {
      destination = open(cloneMount(options.destination));
      const set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
      setMountAttributes(destination, { set, userNamespace });
    }
    const [program = 'nsenter', ...args] = confinedCommand(options);
    return startProgram(program, args, {
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      cwd: '/',
      stdio: ['pipe', 'ignore', 'pipe', 'pipe', userNamespace, destination, ...options.fds],
    });
  } catch (cause) {
    const passed: readonly ErrorCode[] = ['E_INSTALLATION', 'E_TOO_MANY_FILES'];
    if (isKilnCode(cause, ...passed)) throw cause;
    const what = 'the process that reads untrusted files cannot be confined';
    throw new KilnError('E_CONFINE_START', what, {
      cause,
      hint: '`kiln doctor` tells what this host lacks (user namespaces, ID-mapped mounts)',
    });
  }
}

/** Other users can only map their own id, and have no destination. */
function mapping(own = 0, { base, count } = CONFINED_IDS) {
  return process.geteuid?.() === 0
    ? { inside: 0, outside: base, count }
    : { inside: 0, outside: own, count: 1 };
}

function confinedCommand(options: LaunchOptions): string[] {
  const { prefix, command } = options.command
    ? { prefix: [], command: options.command }
    : ownProgram(options);
  const keepCredentials = process.geteuid?.() === 0 ? [] : ['--preserve-credentials'];
  const enter = [`--user=/proc/self/fd/${USER_NAMESPACE_FD}`, ...keepCredentials, '--'];
  const bounding = ['-all', ...CAPABILITIES.map((name) => `+${name}`)].join(',');
  const restrict = [
    ...['setpriv', '--pdeathsig=KILL', '--inh-caps=-all', `--bounding-set=${bounding}`],
    '--',
  ];
  const isolate = [
    ...['unshare', '--mount', '--pid', '--net', '--ipc', '--uts', '--cgroup'],
    ...['--fork', '--kill-child=KILL', '--'],
  ];
  return [...prefix, 'nsenter', ...enter, ...restrict, ...isolate, ...command];
}

function ownProgram({ task, entry: own = programPath('confined'), ids, program }: LaunchOptions) {
  const path = program === undefined ? own : join(packageRoot(), 'dist', program);
  const { prefix, node, entry } = passageTo(path, ids ?? CONFINED_IDS);
  if (program !== undefined) return { prefix, command: [entry] };
  const options = [
    `--max-old-space-size=${HEAP_MB}`,
    '--disable-warning=ExperimentalWarning',
    // With these options no signal opens a debugger, and no thread waits for one.
    '--disable-sigusr1',
    // There is a child for each processor.
    '--single-threaded-gc',
  ];
  return { prefix, command: nodeCommand({ node, options, program: entry, words: [task] }) };
}

export async function stopConfined(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return;
  child.kill('SIGKILL');
  const pipe = child.stdio[3] as Readable;
  pipe.resume();
  if (!pipe.closed) await once(pipe, 'close');
  child.stderr?.destroy();
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}

const PLACE = '/run';

/**
 * The child's ids own no file of the host, and a checkout in root's home may be readable by root alone. So root
 * runs this in a mount namespace that ends with the child: $1 is kiln, $2 Node, $3 the child's ids. The mounts
 * are ID-mapped (X-mount.idmap of mount(8)). A file system that takes no ID map (an overlay) is mounted as it
 * is, and only folders inside kiln's own, which may be closed to others.
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

/**
 * How ids that own no file start `entry`, a module of kiln's. Takes five milliseconds where not everybody may
 * read it.
 * @public test/confine/passage.test.ts calls it by name in a process of its own
 */
export function passageTo(entry: string, ids: { readonly base: number; readonly count: number }) {
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

function mayRead(file: string): boolean {
  if ((statSync(file).mode & 0o004) === 0) return false;
  for (let path = dirname(file); ; path = dirname(path)) {
    if ((statSync(path).mode & 0o001) === 0) return false;
    if (path === '/') return true;
  }
}
