/**
 * Programs that kiln starts on the host for a user get the bounds of the user's client, and no more of the
 * host. Sources: proc_pid_limits(5), proc_pid_cgroup(5), proc_pid_status(5), namespaces(7).
 */
import type { ChildProcess, StdioOptions } from 'node:child_process';
import { fstatSync, openSync, readFileSync, readlinkSync, readSync, statSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { closing } from '../host/calls/descriptor.ts';
import { readText } from '../host/calls/libc.ts';
import { checked, tryCall } from '../host/calls/system-call.ts';
import { knownHierarchies, pathOfGroup } from '../host/cgroup/cgroup.ts';
import { startProgram } from '../host/process/child-process.ts';
import type { UserIds } from '../host/process/user-namespace.ts';
import { awaitedLater } from '../promise.ts';
import type { CallerFiles } from './caller-files.ts';
import { forbiddenError } from './configuration.ts';

export interface ProcessBounds {
  readonly cgroups: readonly string[];
  /** Options of prlimit(1). */
  readonly limits: readonly string[];
  /** As /proc/PID/oom_score_adj has it. */
  readonly oomScore: string;
}

const NAMESPACES = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'] as const;

/** By the first words of a line of /proc/PID/limits. */
const LIMITS: ReadonlyMap<string, string> = new Map([
  ['Max cpu time', 'cpu'],
  ['Max file size', 'fsize'],
  ['Max data size', 'data'],
  ['Max stack size', 'stack'],
  ['Max core file size', 'core'],
  ['Max resident set', 'rss'],
  ['Max processes', 'nproc'],
  ['Max open files', 'nofile'],
  ['Max locked memory', 'memlock'],
  ['Max address space', 'as'],
  ['Max file locks', 'locks'],
  ['Max pending signals', 'sigpending'],
  ['Max msgqueue size', 'msgqueue'],
  ['Max nice priority', 'nice'],
  ['Max realtime priority', 'rtprio'],
  ['Max realtime timeout', 'rttime'],
]);

/**
 * A confined client, as in a container or with a filter of system calls, is refused: it could escape through
 * what kilnd starts.
 * @param client its `process` is a descriptor of the client (pidfd_open(2)): its number may be another one's by now
 * @throws KilnError E_FORBIDDEN
 */
export function boundsOfClient(client: {
  readonly process: number | undefined;
  readonly uid: number;
}): ProcessBounds {
  const { process: descriptor, uid } = client;
  try {
    const pid = pidOf(descriptor);
    const why = confinement(pid, uid);
    if (why !== undefined) throw refusedError(why);
    const bounds = boundsOf(pid);
    // It had its number all the time, so all that was read is its own.
    pidOf(descriptor);
    return bounds;
  } catch (cause) {
    if (!(cause instanceof Error && 'syscall' in cause)) throw cause;
    throw refusedError('it is gone');
  }
}

/** proc_pid_fdinfo(5): the number is -1 once the process is gone. */
function pidOf(descriptor: number | undefined): number {
  const info =
    descriptor === undefined ? '' : readFileSync(`/proc/self/fdinfo/${descriptor}`, 'latin1');
  const pid = Number(/^Pid:\s*(\d+)$/m.exec(info)?.[1] ?? 0);
  if (pid === 0) throw refusedError('it is gone');
  return pid;
}

function refusedError(why: string): Error {
  return forbiddenError(
    '$host',
    `nothing runs on the host for the process that called kiln: ${why}`,
    {
      hint: 'call kiln from a plain shell of this host',
    },
  );
}

function confinement(pid: number, uid: number): string | undefined {
  const of = (name: string) => `/proc/${pid}/${name}`;
  const own = (name: string) => `/proc/self/${name}`;
  const status = readFileSync(of('status'), 'latin1');
  const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? '';
  // All four ids: a process that changes them is not the user's own.
  if (
    field('Uid')
      .split('\t')
      .some((id) => Number(id) !== uid)
  )
    return 'it is somebody else’s';
  for (const name of NAMESPACES) {
    if (statSync(of(`ns/${name}`)).ino !== statSync(own(`ns/${name}`)).ino)
      return `it has a ${name} namespace of its own`;
  }
  if (field('NoNewPrivs') !== '0') return 'it can gain no rights (no_new_privs), as in a sandbox';
  if (readlinkSync(of('root')) !== '/') return 'it has a root directory of its own';
  if (field('Seccomp') !== '0') return 'a filter of system calls confines it';
  if (readText(of('attr/current')) !== readText(own('attr/current')))
    return 'a security module has another label for it than for kilnd';
  return undefined;
}

/** Runs as root, on words that only kiln wrote: takes the bounds of another process, then runs the rest. */
const TAKE_BOUNDS =
  'echo "$1" >/proc/self/oom_score_adj && shift && while [ "$1" != -- ]; do echo $$ >"$1" || exit 126; shift; done && shift && exec "$@"';

/**
 * Starts a program with a user's ids and groups, no way to other rights, the given bounds, and a session and a keyring
 * of its own. Its only variable is PATH.
 */
export function startAsUser(
  { uid, gid, groups }: UserIds,
  { cgroups, limits, oomScore }: ProcessBounds,
  words: readonly string[],
  stdio: StdioOptions,
): ChildProcess {
  const rights = [
    ...['setpriv', `--reuid=${uid}`, `--regid=${gid}`],
    groups.length === 0 ? '--clear-groups' : `--groups=${groups.join()}`,
    ...['--no-new-privs', '--bounding-set=-all', '--inh-caps=-all', '--pdeathsig=KILL', '--'],
  ];
  const bounded = ['prlimit', ...limits, '--', ...rights, ...words];
  joinNewSessionKeyring();
  return startProgram(
    '/bin/sh',
    ['-c', TAKE_BOUNDS, 'kiln', oomScore, ...cgroups, '--', ...bounded],
    {
      ...{ cwd: '/', env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' } },
      ...{ stdio, detached: true },
    },
  );
}

/** keyctl(2): KEYCTL_JOIN_SESSION_KEYRING. */
const JOIN_SESSION_KEYRING = 1;

/** What is started next inherits it, instead of the keys of those who started kilnd or of the user's other commands. */
function joinNewSessionKeyring(): void {
  const result = tryCall('keyctl', JOIN_SESSION_KEYRING, null);
  // A kernel without keys has nothing to keep apart.
  if (result < 0 && result !== -constants.errno.ENOSYS) checked('keyctl', result);
}

/** How long a client may take to open a file, ms. */
const ANSWER_MAX = 10_000;

type Client = UserIds & { readonly files: Pick<CallerFiles, 'asOpened'> | undefined };

/**
 * Landlock shows nowhere. But whom it confines may look into no process that is not confined with them (landlock(7)),
 * of the same user either: so the client opens a file of such a process. The user can do with that process whatever
 * the user's own processes can do, so it has the bounds of the command that comes after it.
 * @throws KilnError E_FORBIDDEN
 */
export async function refuseLandlock(user: Client, bounds: ProcessBounds): Promise<void> {
  const words = ['/bin/sh', '-c', 'echo; read -r _'];
  const other = startAsUser(user, bounds, words, ['pipe', 'pipe', 'ignore']);
  other.on('error', () => undefined);
  try {
    const late = awaitedLater(sleep(ANSWER_MAX, 'late', { ref: false }));
    const answer = await Promise.race([awaitedLater(verifyClientCanPtrace(other, user)), late]);
    if (answer === 'late') throw refusedError('it does not answer');
  } finally {
    other.kill('SIGKILL');
  }
}

async function verifyClientCanPtrace(other: ChildProcess, { files }: Client): Promise<void> {
  try {
    // What it says, it says as the user.
    for await (const _ of other.stdout ?? []) break;
    const path = `/proc/${other.pid}/environ`;
    using wanted = closing(openSync(path, 'r'));
    // The user may have ended it, and another process may have its number.
    if (other.exitCode !== null || other.signalCode !== null) throw new Error('it is gone');
    const given = await files?.asOpened(path);
    if (given === undefined) throw new Error('its client opens nothing');
    using _given = closing(given);
    const [{ dev, ino }, theirs] = [fstatSync(wanted.fd), fstatSync(given)];
    if (theirs.dev !== dev || theirs.ino !== ino) throw new Error('another file was opened');
    // Fails for what was found without being opened (O_PATH).
    readSync(given, Buffer.alloc(1), {});
  } catch {
    throw refusedError(
      'it may not look into other processes of its user, as where Landlock confines it',
    );
  }
}

function boundsOf(pid: number): ProcessBounds {
  const lines = readFileSync(`/proc/${pid}/limits`, 'latin1').split('\n');
  const limits = lines.flatMap((line) => {
    const [, name = '', soft, hard] = /^(\S.*?) {2,}(\S+) +(\S+)/.exec(line) ?? [];
    const option = LIMITS.get(name);
    return option === undefined ? [] : [`--${option}=${soft}:${hard}`];
  });
  const groups = readFileSync(`/proc/${pid}/cgroup`, 'utf8').trim().split('\n');
  const cgroups = groups.flatMap((line) => {
    // As 4:memory:/a, and 0::/a of the unified hierarchy. A name may have a colon.
    const [, controllers = '', group = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const hierarchy = knownHierarchies().find((known) =>
      controllers === ''
        ? known.version === 2
        : known.version === 1 &&
          controllers.split(',').every((name) => known.controllers.includes(name)),
    );
    if (hierarchy === undefined) return [];
    const path = pathOfGroup(hierarchy, group);
    if (path === undefined) throw refusedError(`its control group ${group} is not seen from here`);
    return [join(path, 'cgroup.procs')];
  });
  return { cgroups, limits, oomScore: readFileSync(`/proc/${pid}/oom_score_adj`, 'latin1').trim() };
}
