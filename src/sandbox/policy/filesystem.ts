import { constants, openSync, statSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import {
  cloneMount,
  loadFileSystem,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  setMountAttributes,
} from '../../host/files/mount.ts';
import { createUserNamespace } from '../../host/process/user-namespace.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import type { ProcRule } from '../wire/codec.ts';
import {
  type PrepareOperation,
  type RequestField,
  type SetupOperation,
  WIRE,
} from '../wire/table.ts';
import { can } from './ground-kinds.ts';
import { openBind, refuseHostWrite } from './host-write.ts';
import { hostResolver, hostsFile, type NetworkAnswers, networkResolver } from './hosts.ts';
import { userLimits } from './limits.ts';
import type { Bind, SandboxSpecification, SnapshotLayer } from './specification.ts';

/**
 * Hidden because they tell about the whole host or act on it: podman's and runc's list; also what tells the
 * kernel's addresses, the host's disks, memory and locks, or its command line (which may hold passwords), or lets
 * anybody make the kernel work (pressure).
 */
const MASKED = [
  ...['acpi', 'asound', 'cmdline', 'diskstats', 'interrupts', 'iomem', 'ioports', 'kallsyms'],
  ...['kcore', 'key-users', 'keys', 'kmsg', 'kpagecgroup', 'kpagecount', 'kpageflags'],
  ...['latency_stats', 'locks', 'modules', 'mtrr', 'pagetypeinfo', 'partitions', 'pressure'],
  ...['sched_debug', 'scsi', 'slabinfo', 'swaps', 'timer_list', 'timer_stats', 'vmallocinfo'],
];

const READ_ONLY = ['bus', 'driver', 'fs', 'irq', 'sys', 'sysrq-trigger', 'tty'];

export const PROC_RULES: readonly ProcRule[] = [
  ...MASKED.map((name) => ({ path: `/proc/${name}`, rule: 'mask' }) as const),
  ...READ_ONLY.map((name) => ({ path: `/proc/${name}`, rule: 'readonly' }) as const),
];

export function procOperations(): PrepareOperation[] {
  return PROC_RULES.map(({ path, rule }) => ({ op: rule, path }));
}

const PRIVATE_TMPFS = [
  { path: '/tmp', mode: 0o1777 },
  { path: '/var/tmp', mode: 0o1777 },
  { path: '/run', mode: 0o755 },
  { path: '/dev/shm', mode: 0o1777 },
];

let overlayAsked = false;

/** Loads the overlay module once: a sandbox cannot. If it is missing, the init reports that. */
function loadOverlay(): void {
  if (overlayAsked) return;
  overlayAsked = true;
  unlessErrno(['ENODEV', 'EPERM', 'ENOSYS'], () => loadFileSystem('overlay'));
}

const SECRETS = '/run/secrets';

function secretOperations(
  { secrets }: SandboxSpecification,
  { user: { uid, gid } }: BindOwners,
): SetupOperation[] {
  if (secrets.length === 0) return [];
  return [
    { op: 'tmpfs', path: SECRETS, mode: 0o500, bytes: 1 << 20 },
    ...secrets.map(({ name, content }) => {
      const path = `${SECRETS}/${name}`;
      return { op: 'file', path, mode: 0o400, uid, gid, content } as const;
    }),
    { op: 'directory', path: SECRETS, mode: 0o500, uid, gid },
    { op: 'readonly', path: SECRETS },
  ];
}

function nameOperations(
  { names, root, hostname, network }: SandboxSpecification,
  answers: NetworkAnswers,
): SetupOperation[] {
  if (!names) return [];
  const file = (name: string, content: string | undefined): SetupOperation[] =>
    content === undefined ? [] : [{ op: 'etc-file', name, content: Buffer.from(content) }];
  const resolver =
    network === 'private'
      ? undefined
      : network === 'host'
        ? hostResolver()
        : networkResolver(answers.nameServers ?? []);
  return [...file('hosts', hostsFile(root, hostname, answers)), ...file('resolv.conf', resolver)];
}

/**
 * The mounts that the init must make, in order, and the detached mounts that it needs for them. Dispose of the
 * result after sending the message.
 * @param initPid the sandbox's init: files of the image get the ids of its user namespace
 * @param paths what a bind must not give write access to
 */
export function planFilesystem(
  specification: SandboxSpecification,
  { range, initPid }: { readonly range: IdRange; readonly initPid: number },
  owners: BindOwners,
  paths: StatePaths,
  network: NetworkAnswers = {},
): SetupPlan {
  using stack = new DisposableStack();
  const plan = stack.use(new SetupPlan());
  const { operations } = plan;
  const { disk: bytes, nested, namespaces } = specification;
  operations.push({ op: 'hostname', name: specification.hostname });
  operations.push(...nameOperations(specification, network));
  loadOverlay();
  using users = usersOf(initPid);
  const { fd: namespace } = users;
  operations.push(...rootOperations(plan, specification, namespace));
  const addVolume = ({ source, target, ...how }: Volume) => {
    const readonly = how.readonly === true;
    const mount = typeof source === 'number' ? source : detach(source, namespace, readonly);
    const fd = plan.add(mount, typeof source === 'number' ? target : source);
    if (typeof source === 'number') {
      const set = WRITABLE | (readonly ? MOUNT_ATTR_RDONLY : 0);
      setMountAttributes(mount, { set, userNamespace: namespace });
    }
    const access = readonly ? 'readonly' : 'own';
    operations.push({ op: 'bind', fd, access, directory: true, path: target });
  };
  // Those that are read-only are a caller's, and mounted as binds are.
  const isPart = (volume: Volume) => volume.readonly !== true;
  for (const volume of specification.volumes.filter(isPart)) addVolume(volume);
  if (specification.network !== 'private') operations.push({ op: 'network' });
  operations.push(...userLimits(nested ? null : namespaces));
  for (const { path, mode } of PRIVATE_TMPFS.slice(specification.privateTmp ? 0 : -1)) {
    operations.push({ op: 'tmpfs', path, mode, bytes });
  }
  if (!nested) {
    operations.push(...procOperations());
    for (const path of specification.readonlyPaths) operations.push({ op: 'readonly', path });
  }
  const binds = specification.binds.length > 0 ? bindNamespace(range, owners) : undefined;
  using _binds = binds === undefined ? undefined : closing(binds);
  const check = (source: string, fd: number) => {
    if (!specification.allowHostWrite) refuseHostWrite(paths, source, fd, owners.caller);
  };
  // Mounts above others come first: later ones would hide what is below.
  const shown = specification.volumes.filter((volume) => !isPart(volume));
  const wanted = [...specification.tmpfs, ...specification.binds, ...shown].sort((a, b) =>
    a.target < b.target ? -1 : Number(a.target > b.target),
  );
  const mountsImages = can(specification.isolation, 'mountsImages');
  for (const mount of wanted) {
    if ('source' in mount && !('place' in mount)) addVolume(mount);
    else if ('source' in mount && mount.image === true && mountsImages)
      addImage(plan, mount, binds ?? -1);
    else if ('source' in mount) addBind(plan, mount, binds ?? -1, check);
    else {
      const { target: path, size: own = bytes } = mount;
      operations.push({ op: 'tmpfs', path, mode: 0o1777, bytes: own });
    }
  }
  for (const { path, mode, content } of specification.files) {
    operations.push({ op: 'file', mode, uid: 0, gid: 0, path, content: Buffer.from(content) });
  }
  operations.push(...secretOperations(specification, owners));
  for (const { source, target: path, readonly } of specification.guestBinds) {
    operations.push({ op: 'guest-bind', readonly, source, path });
  }
  // Last: what comes before makes places in the root.
  if (specification.readonlyRoot) operations.push({ op: 'readonly', path: '/' });
  stack.move();
  return plan;
}

/** What a root is made of. */
export interface RootParts {
  readonly root: string;
  readonly layers?: readonly SnapshotLayer[] | undefined;
  readonly scratch?: string | undefined;
  /** Bytes of what is written, where there is no `scratch`. */
  readonly disk: number;
}

type RootOperation = Exclude<RequestField<'root'>, { readonly op: 'id' }>;

function rootOperations(
  plan: SetupPlan,
  { root, layers = [], scratch, disk: bytes }: RootParts,
  namespace: number,
): RootOperation[] {
  const add = (path: string, readonly: boolean) =>
    plan.add(detach(path, namespace, readonly), path);
  return [
    { op: 'lower', fd: add(root, true) },
    scratch === undefined
      ? { op: 'scratch-tmpfs', bytes }
      : { op: 'scratch', fd: add(scratch, false) },
    ...layers.map(({ tree }) => ({ op: 'lower-layer', fd: add(tree, true) }) as const),
  ];
}

function usersOf(initPid: number) {
  return closing(openSync(`/proc/${initPid}/ns/user`, constants.O_RDONLY));
}

/** The message `root`, as {@link planFilesystem} plans the one for a sandbox. @throws KilnError E_IDMAP, E_BIND */
export function planRoot(initPid: number, parts: RootParts) {
  using stack = new DisposableStack();
  const plan = stack.use(new SetupPlan());
  using users = usersOf(initPid);
  const operations = rootOperations(plan, parts, users.fd);
  const owned = stack.move();
  return { operations, fds: plan.fds, [Symbol.dispose]: () => owned.dispose() };
}

type Volume = SandboxSpecification['volumes'][number];

export interface BindOwners {
  readonly user: { readonly uid: number; readonly gid: number };
  readonly caller: { readonly uid: number; readonly gid: number };
  readonly groups: readonly number[];
}

/** The most groups in a map: it is written in one go, in one page (user_namespaces(7)). */
const GROUPS_MAX = 150;

/** A file with a file system, for the nth descriptor of `setup`; `fd` is a detached mount of it. */
export interface ImageMount {
  readonly nth: number;
  readonly fd: number;
  /** As messages name it. */
  readonly source: string;
}

export class SetupPlan implements Disposable {
  readonly operations: SetupOperation[] = [];
  readonly fds: number[] = [];
  readonly sources: string[] = [];
  readonly images: ImageMount[] = [];

  add(fd: number, source: string): number {
    if (this.fds.length === WIRE.descriptors) {
      closeDescriptor(fd);
      throw tooManyMountsError(source);
    }
    this.sources.push(source);
    return this.fds.push(fd) - 1;
  }

  [Symbol.dispose](): void {
    const images = this.images.splice(0).map(({ fd }) => fd);
    for (const fd of [...this.fds.splice(0), ...images]) closeDescriptor(fd);
  }
}

const WRITABLE = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;

function detach(
  path: string,
  userNamespace: number,
  readonly: boolean,
  name: string = path,
): number {
  const fd = cloneMount(path);
  try {
    const set = WRITABLE | (readonly ? MOUNT_ATTR_RDONLY : 0);
    setMountAttributes(fd, { set, userNamespace });
    return fd;
  } catch (error) {
    closeDescriptor(fd);
    throw new KilnError('E_IDMAP', `cannot map the owners of ${name} into the sandbox`, {
      cause: error,
      hint: 'its file system must support ID-mapped mounts (ext4, xfs, btrfs, tmpfs do): see `kiln doctor`',
    });
  }
}

/**
 * Works on any file system, without an ID map: whoever has a file on the host, it is nobody's in the sandbox. With what
 * is mounted below, since that may be there to hide something.
 */
function detachHosts(path: string): number {
  const fd = cloneMount(path, 'whole');
  try {
    setMountAttributes(fd, { set: WRITABLE | MOUNT_ATTR_RDONLY });
    return fd;
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}

/** The machine's kernel mounts what is in the file, before the message: the file itself stands for it there. */
function addImage(plan: SetupPlan, bind: Bind, namespace: number): void {
  const { source, target: path } = bind;
  using opened = closing(openBind(bind));
  const file = `/proc/self/fd/${opened.fd}`;
  if (!statSync(file).isFile()) {
    throw new KilnError('E_BIND', `${source} cannot be mounted: it is no file`, {
      hint: 'leave out image to bind a folder',
    });
  }
  const nth = plan.add(detach(file, namespace, true, source), source);
  plan.images.push({ nth, fd: detach(file, namespace, true, source), source });
  plan.operations.push({ op: 'bind', fd: nth, access: 'readonly', directory: true, path });
}

export function imageError(source: string): KilnError {
  return new KilnError('E_BIND', `cannot bind ${source}: image is for runs, shells and services`, {
    hint: '`kiln run`, `kiln shell` and services show the file system in a file',
  });
}

function addBind(
  plan: SetupPlan,
  bind: Bind,
  namespace: number,
  check: (source: string, fd: number) => void,
): void {
  const { source, target: path, readonly, own, hosts, cow, image } = bind;
  if (image === true) throw imageError(source);
  using opened = closing(openBind(bind));
  const access = cow === true ? 'cow' : readonly ? 'readonly' : own === true ? 'own' : 'host';
  if (access === 'host') check(source, opened.fd);
  // Binds the file that was checked, even if another has taken its place since.
  const file = `/proc/self/fd/${opened.fd}`;
  const directory = statSync(file).isDirectory();
  if (cow === true && !directory) {
    throw new KilnError('E_BIND', `cannot bind ${source}: cow is for folders`, {
      hint: 'bind the folder that it is in, or the file with ro',
    });
  }
  const mount = hosts === true ? detachHosts(file) : detach(file, namespace, readonly, source);
  const fd = plan.add(mount, source);
  plan.operations.push({ op: 'bind', fd, access, directory, path });
}

/**
 * Only the caller's own ids are mapped in a bind; everybody else is nobody in the sandbox. A folder whose group
 * is not mapped takes no new files, so the caller's other groups are mapped to their own numbers.
 */
function bindNamespace(range: IdRange, { user, caller, groups }: BindOwners): number {
  const others = [...new Set(groups)]
    .filter((gid) => gid !== caller.gid && gid !== user.gid && gid < range.count - 1)
    .slice(0, GROUPS_MAX);
  return createUserNamespace(
    [{ inside: caller.uid, outside: range.base + user.uid, count: 1 }],
    [
      { inside: caller.gid, outside: range.base + user.gid, count: 1 },
      ...others.map((gid) => ({ inside: gid, outside: range.base + gid, count: 1 })),
    ],
  );
}

export function tooManyMountsError(source: string): KilnError {
  return new KilnError(
    'E_BIND',
    `cannot bind ${source}: a sandbox takes ${WIRE.descriptors} mounts at most`,
    { hint: 'bind a folder that they are all in', details: { errno: 'EMFILE', source } },
  );
}
