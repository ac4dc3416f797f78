/** Starts the confined child: a Node in namespaces of its own, mapped to ids that nobody else has. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import type { Readable } from 'node:stream';
import type { ErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { startProgram } from '../kernel/child-process.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  setMountAttributes,
} from '../kernel/mount.ts';
import { nodeCommand } from '../kernel/own-node.ts';
import { createUserNamespace } from '../kernel/user-namespace.ts';
import { confinedEntry } from './entry.ts';
import { passageTo } from './passage.ts';
import { USER_NAMESPACE_FD } from './task.ts';

/**
 * Ids of confined children on the host: 0x70000000 and the next 65536, which systemd's UIDS-GIDS
 * document leaves unused and sandbox/id-range.ts keeps for us. Children share them: each has its
 * own user and pid namespace and none lives long.
 */
const ID_BASE = 1879048192;
const ID_COUNT = 65536;

/**
 * What unpacking as root of the namespace needs; SYS_ADMIN only until the child has changed its
 * root (its filter then refuses every call that it would allow).
 */
const CAPABILITIES = ['chown', 'dac_override', 'fowner', 'fsetid', 'setfcap', 'sys_admin'];

/** V8's heap, MiB: headers become objects there; payloads never do. */
const HEAP_MB = 768;

/** What {@link launchConfined} starts the child with. */
export interface LaunchOptions {
  /** Its name is a word of the command line, for who looks at the host's processes. */
  readonly task: string;
  /** A directory that becomes the child's root, writable with real owners. Needs root. */
  readonly destination?: string | undefined;
  /** Descriptors for the child; they stay the caller's. */
  readonly fds: readonly number[];
  /** The program to run, for a table of tasks other than src/confined.ts. */
  readonly entry?: string | undefined;
}

/**
 * Starts the child. It waits for a request on its stdin; replies come on `stdio[3]`.
 *
 * The process kiln sees is util-linux's unshare: killing it kills the child, which is pid 1 of its
 * own pid namespace, and with that everything in it; the kernel kills it when kiln dies.
 */
export function launchConfined(options: LaunchOptions): ChildProcess {
  const opened: number[] = [];
  try {
    const userNamespace = createUserNamespace([idMapping()]);
    opened.push(userNamespace);
    let destination: number | 'ignore' = 'ignore';
    if (options.destination !== undefined) {
      destination = cloneMount(options.destination);
      opened.push(destination);
      const set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
      setMountAttributes(destination, { set, userNamespace });
    }
    const { task, entry = confinedEntry() } = options;
    const [program = 'nsenter', ...args] = confinedCommand(entry, task);
    return startProgram(program, args, {
      env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
      cwd: '/',
      stdio: ['pipe', 'ignore', 'pipe', 'pipe', userNamespace, destination, ...options.fds],
    });
  } catch (cause) {
    const passed: readonly ErrorCode[] = ['E_INSTALLATION', 'E_TOO_MANY_FILES'];
    if (cause instanceof KilnError && passed.includes(cause.code)) throw cause;
    throw new KilnError('E_CONFINE_START', 'cannot make the confinement for untrusted files', {
      cause,
      hint: 'kiln doctor says what this kernel lacks (user namespaces, ID-mapped mounts)',
    });
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/** Root gets the reserved range; anybody else can only map himself (and has no destination). */
function idMapping() {
  const uid = process.geteuid?.() ?? 0;
  return uid === 0
    ? { inside: 0, outside: ID_BASE, count: ID_COUNT }
    : { inside: 0, outside: uid, count: 1 };
}

function confinedCommand(path: string, task: string): string[] {
  const { prefix, node, entry } = passageTo(path, { base: ID_BASE, count: ID_COUNT });
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
  const options = [
    `--max-old-space-size=${HEAP_MB}`,
    '--disable-warning=ExperimentalWarning',
    // No signal opens a debugger there, and no thread waits for one.
    '--disable-sigusr1',
  ];
  const child = nodeCommand({ node, options, program: entry, words: [task] });
  return [...prefix, 'nsenter', ...enter, ...restrict, ...isolate, ...child];
}

/** Kills what is left of the child and waits until nothing of it holds the reply pipe. */
export async function stopConfined(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return;
  child.kill('SIGKILL');
  const pipe = child.stdio[3] as Readable;
  pipe.resume();
  if (!pipe.closed) await once(pipe, 'close');
  child.stderr?.destroy();
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
}
