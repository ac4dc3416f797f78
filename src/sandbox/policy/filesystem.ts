import { closeSync, constants, openSync } from 'node:fs';
import { hasErrno } from '../../host/calls/libc.ts';
import { loadFileSystem, setMountAttributes } from '../../host/files/mount.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import type { IdRange } from '../domain/id-range.ts';
import { hostResolver, hostsFile, networkResolver } from '../network/hosts.ts';
import type { ProcRule } from '../wire/exec.ts';
import type { PrepareOperation, SetupOperation } from '../wire/table.ts';
import {
  type BindOwners,
  bindNamespace,
  bindOperation,
  Descriptors,
  detach,
  WRITABLE,
} from './binds.ts';
import { refuseHostWrite } from './host-write.ts';
import type { SandboxSpecification } from './specification.ts';

/**
 * Paths that are hidden because they tell about the whole host or act on it: podman's and runc's list; also
 * what tells the kernel's addresses, the host's disks, memory and locks, or its command line (which may hold
 * passwords), or lets anybody make the kernel work (pressure).
 */
const MASKED = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/cmdline',
  '/proc/diskstats',
  '/proc/interrupts',
  '/proc/iomem',
  '/proc/ioports',
  '/proc/kallsyms',
  '/proc/kcore',
  '/proc/key-users',
  '/proc/keys',
  '/proc/kmsg',
  '/proc/kpagecgroup',
  '/proc/kpagecount',
  '/proc/kpageflags',
  '/proc/latency_stats',
  '/proc/locks',
  '/proc/modules',
  '/proc/mtrr',
  '/proc/pagetypeinfo',
  '/proc/partitions',
  '/proc/pressure',
  '/proc/sched_debug',
  '/proc/scsi',
  '/proc/slabinfo',
  '/proc/swaps',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/vmallocinfo',
];

const READ_ONLY = [
  '/proc/bus',
  '/proc/driver',
  '/proc/fs',
  '/proc/irq',
  '/proc/sys',
  '/proc/sysrq-trigger',
  '/proc/tty',
];

/** How every /proc of a sandbox is closed. */
export const PROC_RULES: readonly ProcRule[] = [
  ...MASKED.map((path) => ({ path, rule: 'mask' }) as const),
  ...READ_ONLY.map((path) => ({ path, rule: 'readonly' }) as const),
];

/** The same rules as operations for the init, which can apply them before the sandbox has an image. */
export function procOperations(): PrepareOperation[] {
  return PROC_RULES.map(({ path, rule }) => ({ op: rule, path }));
}

/** The private tmpfs of every sandbox: mode, and share of the disk limit. */
const PRIVATE_TMPFS = [
  { path: '/tmp', mode: 0o1777 },
  { path: '/var/tmp', mode: 0o1777 },
  { path: '/run', mode: 0o755 },
  { path: '/dev/shm', mode: 0o1777 },
];

/** The descriptors and operations of one setup message. */
export interface SetupPlan extends Disposable {
  readonly operations: readonly SetupOperation[];
  readonly fds: readonly number[];
  /** The source of each descriptor, for errors. */
  readonly sources: readonly string[];
}

/** What a sandbox's network has told. */
export interface NetworkAnswers {
  /** The sandbox's own address. */
  readonly address?: string;
  readonly nameServers?: readonly string[];
}

let overlayAsked = false;

/** Loads the overlay module once: a sandbox cannot. If it is missing, the init reports that. */
function loadOverlay(): void {
  if (overlayAsked) return;
  overlayAsked = true;
  try {
    loadFileSystem('overlay');
  } catch (error) {
    if (!hasErrno(error, 'ENODEV', 'EPERM', 'ENOSYS')) throw error;
  }
}

/** Where secrets lie in a sandbox, as with podman and Docker. */
const SECRETS = '/run/secrets';

/** Operations for a file system of secrets, made read-only after it is filled. */
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

/** Operations for the host names that programs in the sandbox resolve, whatever the image has. */
function nameOperations(
  { names, root, hostname, network }: SandboxSpecification,
  { address, nameServers = [] }: NetworkAnswers,
): SetupOperation[] {
  if (!names) return [];
  const file = (name: string, content: string | undefined): SetupOperation[] =>
    content === undefined ? [] : [{ op: 'etc-file', name, content: Buffer.from(content) }];
  const resolver =
    network === 'private'
      ? undefined
      : network === 'host'
        ? hostResolver()
        : networkResolver(nameServers);
  return [...file('hosts', hostsFile(root, hostname, address)), ...file('resolv.conf', resolver)];
}

/**
 * The mounts that the sandbox's init must make, in order, and the detached mounts that it needs for them.
 * Dispose of the result after sending the message. The host's mount table does not change.
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
  const descriptors = new Descriptors();
  const operations: SetupOperation[] = [
    { op: 'hostname', name: specification.hostname },
    ...nameOperations(specification, network),
  ];
  const bytes = specification.disk;
  loadOverlay();
  try {
    const namespace = openSync(`/proc/${initPid}/ns/user`, constants.O_RDONLY);
    try {
      const lower = descriptors.add(
        detach(specification.root, namespace, true),
        specification.root,
      );
      operations.push({ op: 'lower', fd: lower });
      if (specification.scratch === undefined) operations.push({ op: 'scratch-tmpfs', bytes });
      else {
        const { scratch } = specification;
        const fd = descriptors.add(detach(scratch, namespace, false), scratch);
        operations.push({ op: 'scratch', fd });
      }
      for (const { source, target } of specification.volumes) {
        const mount = typeof source === 'number' ? source : detach(source, namespace, false);
        const fd = descriptors.add(mount, typeof source === 'number' ? target : source);
        if (typeof source === 'number') {
          setMountAttributes(mount, { set: WRITABLE, userNamespace: namespace });
        }
        operations.push({ op: 'bind', fd, access: 'own', directory: true, path: target });
      }
    } finally {
      closeSync(namespace);
    }
    if (specification.network !== 'private') operations.push({ op: 'network' });
    if (specification.namespaces !== null && !specification.nested) {
      operations.push({ op: 'namespaces', most: specification.namespaces });
    }
    for (const { path, mode } of specification.privateTmp
      ? PRIVATE_TMPFS
      : PRIVATE_TMPFS.slice(-1)) {
      operations.push({ op: 'tmpfs', path, mode, bytes });
    }
    if (!specification.nested) {
      operations.push(...procOperations());
      for (const path of specification.readonlyPaths) operations.push({ op: 'readonly', path });
    }
    // Mounts above others come first: later ones would hide what is below.
    const wanted = [...specification.tmpfs, ...specification.binds].sort((a, b) =>
      a.target < b.target ? -1 : Number(a.target > b.target),
    );
    const binds = specification.binds.length > 0 ? bindNamespace(range, owners) : -1;
    const check = (source: string, fd: number) => {
      if (specification.allowHostWrite) return;
      refuseHostWrite(paths, source, fd, owners.caller);
    };
    try {
      for (const mount of wanted) {
        operations.push(
          'source' in mount
            ? bindOperation(mount, binds, descriptors, check)
            : { op: 'tmpfs', path: mount.target, mode: 0o1777, bytes: mount.bytes },
        );
      }
    } finally {
      if (binds >= 0) closeSync(binds);
    }
    for (const { path, mode, content } of specification.files) {
      operations.push({ op: 'file', mode, uid: 0, gid: 0, path, content: Buffer.from(content) });
    }
    operations.push(...secretOperations(specification, owners));
  } catch (error) {
    descriptors[Symbol.dispose]();
    throw error;
  }
  return {
    operations,
    fds: descriptors.fds,
    sources: descriptors.sources,
    [Symbol.dispose]: () => descriptors[Symbol.dispose](),
  };
}
