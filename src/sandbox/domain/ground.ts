/** What a sandbox stands on, a container of the host's kernel or a machine with a kernel of its own, and its limits. */

import { KilnError } from '../../errors.ts';
import { closeDescriptor } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { sizeInWords } from '../../host/calls/system-error.ts';
import { delegateCgroup } from '../../host/cgroup/cgroup.ts';
import { type CgroupLimits, ProcessCgroups } from '../../host/cgroup/cgroup-files.ts';
import { backingOf, type CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import { shareOpenFiles } from '../../host/process/process.ts';
import { connectLoopback, type Listener, listenLoopback } from '../../host/sockets/unix-socket.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import type { Channel } from '../command/channel.ts';
import { SandboxControl } from '../command/control.ts';
import type { MeasuredLabel } from '../labels/module.ts';
import { whyNotOwn } from '../labels/qemu.ts';
import { type ImageMount, imageError } from '../policy/filesystem.ts';
import { layerMissingError, type OptionalLayer } from '../policy/layers.ts';
import { DEFAULT_PIDS, MINIMUM_MEMORY } from '../policy/limits.ts';
import type { LibvirtNetwork } from '../policy/network.ts';
import type { SandboxSpecification } from '../policy/specification.ts';

/** What is known of a machine from outside: what its own kernel says may be a lie. */
export interface MachineFacts {
  /** Release of the guest's kernel, as kiln chose it. */
  readonly kernel: string;
  /** False where qemu emulates the processor. */
  readonly kvm: boolean;
  /** Of qemu's process; null where the host has no security module. */
  readonly label: MeasuredLabel | null;
}

export interface KnownProcess {
  /** In the sandbox, as its parent's. */
  readonly pid: number;
  readonly parent: number;
  readonly state: string;
  readonly cpuMilliseconds: number;
  readonly residentBytes: number;
  readonly command: readonly string[];
}

/** A process of a sandbox, as the machine's kernel tells, which may lie. */
export interface ProcessInside extends KnownProcess {
  readonly session: number;
  /** As the machine's kernel numbers the sandbox's users. */
  readonly uid: number;
}

/**
 * The sandbox's files and processes where this host cannot reach them. All throw KilnError E_MACHINE, E_SANDBOX_GONE.
 */
export interface FilesInside {
  /**
   * Writes those that patterns match, as src/guest/machine/pack.c reads them, to a descriptor, which stays the
   * caller's: a tar archive with pax headers, which is hostile.
   */
  readonly pack: (patterns: Buffer, to: number) => Promise<void>;
  /**
   * A mebibyte of a plain file from an offset on, at the most, and the size of the whole. Behind a link only the
   * rights of `user` count. @throws SyscallError
   */
  readonly read: (
    file: { readonly path: string; readonly offset: number },
    user: { readonly uid: number; readonly gid: number },
  ) => Promise<{ readonly bytes: Buffer; readonly size: number }>;
  /** Whether one of these mount points is full. */
  readonly isAnyFull: (paths: readonly string[]) => Promise<boolean>;
  /** Without its pid 1. @param commands whether their command lines are wanted, for which a process may be waited */
  readonly processes: (commands: boolean) => Promise<readonly ProcessInside[]>;
}

export interface Ground {
  /** Undefined for a container. */
  readonly machine: MachineFacts | undefined;
  /** Once its init listens, while libvirt does the rest. */
  settle(): Promise<void>;
  /** A limit that is left out stays as it is. @throws KilnError E_LIMIT */
  limit(limits: CgroupLimits): Promise<void>;
  /** After the memory limit. @throws KilnError E_LIMIT */
  limitSockets(): void;
  limits(): CgroupLimits;
  usage(): CgroupUsage;
  /**
   * Lets a system's pid 1, whose root is `owner` on this host, divide the control group.
   * @throws KilnError E_NO_CGROUP2, E_MACHINE
   */
  delegate(owner: number): void;
  /** Links to the namespaces around the sandbox, by kind; undefined where they are those of this process. */
  around(): Promise<ReadonlyMap<string, string> | undefined>;
  /** The sandbox's ids as its kernel numbers them. @param range as this host does */
  ids(range: IdRange): IdRange;
  /**
   * A descriptor of the sandbox's root directory; the caller closes it. The tree is hostile.
   * @throws KilnError E_SANDBOX_GONE, E_MACHINE where another kernel has it
   */
  openRoot(): number;
  /** Undefined where openRoot() reaches them. */
  readonly files: FilesInside | undefined;
  /** On the sandbox's loopback. @throws KilnError E_SETUP, E_MACHINE */
  listen(port: number): Promise<Listener>;
  /**
   * A stream to what listens on the sandbox's loopback. The caller closes it; whether anybody does shows at the first
   * read or write. @throws KilnError E_SETUP, E_MACHINE
   */
  connect(port: number): Promise<number>;
  /** Has the nth interface its fixed addresses and routes. @throws KilnError E_MACHINE */
  setAddresses(nth: number, network: LibvirtNetwork): Promise<void>;
  /** Has its kernel mount the file system in a file. @throws KilnError E_BIND */
  mountImage(image: ImageMount): Promise<void>;
  /** Has its kernel see what the host has changed below layers of the caller's folders. @throws KilnError E_SANDBOX_GONE */
  forgetNames(): Promise<void>;
  /** Ends its processes, where the end of the connection to the init does not. */
  end(): void;
}

/** The processes of a sandbox as this host's kernel and libvirt's lxc driver have them. */
export class Container implements Ground {
  readonly machine = undefined;
  readonly files = undefined;
  readonly #channel: Channel;
  readonly #group: string;
  #cgroups: ProcessCgroups | undefined;

  /** @param group the name of its domain, and of the cgroups that kiln makes for it */
  constructor(channel: Channel, group: string) {
    this.#channel = channel;
    this.#group = group;
  }

  /** Moves the init into the cgroup for its limits, which takes the kernel long, while libvirt does the rest. */
  async settle(): Promise<void> {
    shareOpenFiles(this.#initPid);
    try {
      // Uses fresh cgroups, because the sandbox's own are looked up once and the process moves now.
      await ProcessCgroups.of(this.#initPid).prepare(this.#initPid, this.#group);
    } catch {
      // Setting the limits tries again.
    }
  }

  async limit(limits: CgroupLimits): Promise<void> {
    this.#found.limit(this.#initPid, this.#group, limits);
  }

  limitSockets(): void {
    this.#found.limitSockets();
  }

  limits(): CgroupLimits {
    return this.#found.limits(this.#group);
  }

  usage(): CgroupUsage {
    return this.#found.usage(this.#group);
  }

  delegate(owner: number): void {
    delegateCgroup(this.#initPid, this.#group, owner);
  }

  async around(): Promise<undefined> {
    return undefined;
  }

  ids(range: IdRange): IdRange {
    return range;
  }

  openRoot(): number {
    return this.#channel.openRoot();
  }

  async listen(port: number): Promise<Listener> {
    const fd = await this.#socket((made) => listenLoopback(made, port));
    return { fd, [Symbol.dispose]: () => undefined };
  }

  connect(port: number): Promise<number> {
    return this.#socket((made) => connectLoopback(made, 'ipv4', port));
  }

  /** Its kernel is the host's, which reads no file system of a stranger: planFilesystem() refuses it. */
  async mountImage({ source }: ImageMount): Promise<void> {
    throw imageError(source);
  }

  /** The host's own sees it. */
  async forgetNames(): Promise<void> {}

  /** libvirt has done so, before its init ran. */
  async setAddresses(): Promise<void> {}

  async #socket(use: (fd: number) => void): Promise<number> {
    const fd = await new SandboxControl(this.#channel).socket('ipv4');
    try {
      use(fd);
      return fd;
    } catch (error) {
      closeDescriptor(fd);
      throw error;
    }
  }

  /** The init closes what it has when its connection ends, and libvirt's controller ends with it. */
  end(): void {}

  get #initPid(): number {
    return this.#channel.initPid;
  }

  get #found(): ProcessCgroups {
    this.#cgroups ??= ProcessCgroups.of(this.#initPid);
    return this.#cgroups;
  }
}

function requireMemory(memory: number | undefined): void {
  if (memory === undefined || memory >= MINIMUM_MEMORY) return;
  throw new KilnError(
    'E_LIMIT',
    `a memory limit of ${sizeInWords(memory)} is less than a sandbox takes`,
    {
      hint: 'give 4M or more, as 512M or 2G',
      details: { layer: 'memory-limit' },
    },
  );
}

/** libvirt reports no limit that it could not set, and a container may hide the group with the limit. */
function requireDefaultMemory(ground: Ground, allowMissing: readonly OptionalLayer[]): void {
  if (allowMissing.includes('memory-limit') || ground.limits().memory !== undefined) return;
  throw layerMissingError(
    'memory-limit',
    'no group of the sandbox’s with the default limit is seen',
  );
}

/** Whether the host supports the limit but refuses this value; then the layer is not missing. */
function isRefusedValue(error: unknown): error is KilnError {
  return error instanceof KilnError && hasErrno(error.cause, 'EINVAL', 'EBUSY', 'ERANGE');
}

export async function limitSandbox(
  ground: Ground,
  specification: SandboxSpecification,
): Promise<void> {
  const { limits, allowMissing } = specification;
  requireMemory(limits.memory);
  const enforce = async (layer: OptionalLayer, work: () => Promise<void> | void) => {
    try {
      await work();
    } catch (error) {
      if (isRefusedValue(error)) {
        const { code, message, hint, cause } = error;
        throw new KilnError(code, message, { ...(hint && { hint }), cause, details: { layer } });
      }
      if (allowMissing.includes(layer)) return;
      const why = error instanceof KilnError ? error.message : 'it cannot be set';
      throw layerMissingError(layer, why, error);
    }
  };
  const put = (layer: OptionalLayer, limit: () => CgroupLimits) =>
    enforce(layer, () => ground.limit(limit()));
  const { memory, cpus, pids, ioRead: read, ioWrite: write } = limits;
  if (memory !== undefined) await put('memory-limit', () => ({ memory }));
  if (cpus !== undefined) await put('cpu-limit', () => ({ cpus }));
  await put('pids-limit', () => ({ pids: pids ?? DEFAULT_PIDS }));
  if (memory === undefined) requireDefaultMemory(ground, allowMissing);
  await enforce('memory-limit', () => ground.limitSockets());
  if (read === undefined && write === undefined) return;
  await put('io-limit', () => ({
    io: disksOf(specification).map((device) => ({ device, read, write })),
  }));
}

/** `MAJOR:MINOR` of image, scratch directory, binds and volumes; files in memory are on none. Throws E_LIMIT. */
function disksOf(specification: SandboxSpecification): string[] {
  const { root, scratch, binds, volumes } = specification;
  const paths = [
    root,
    ...(scratch === undefined ? [] : [scratch]),
    ...binds.map(({ place }) => place),
    ...volumes.map(({ source }) =>
      typeof source === 'number' ? `/proc/self/fd/${source}` : source,
    ),
  ];
  return [...new Set(paths.flatMap(disksBelow))];
}

function disksBelow(path: string): string[] {
  let backing: ReturnType<typeof backingOf>;
  try {
    backing = backingOf(path);
  } catch (cause) {
    if (hasErrno(cause, 'ENOENT', 'ENOTDIR')) return [];
    throw new KilnError('E_LIMIT', `cannot find out which disk ${path} is on`, {
      cause,
      hint: 'without --io-read and --io-write kiln need not know it',
    });
  }
  if (backing.kind === 'disk') return [backing.device];
  if (backing.kind === 'memory') return [];
  const { fileSystem } = backing;
  const what = `${path} is on ${fileSystem}, which does not tell the disk it is on: what is read and written there cannot be limited`;
  throw new KilnError('E_LIMIT', what, {
    hint: 'keep KILN_STATE, binds and volumes on a file system with a disk of its own, as ext4 or xfs',
    details: { path, fileSystem },
  });
}

/** Throws E_LAYER_MISSING where the host could hold a machine's qemu by a label, and none of its own is in force. */
export function requireOwnLabel(
  { machine }: Ground,
  { allowMissing }: Pick<SandboxSpecification, 'allowMissing'>,
): void {
  const why = machine && whyNotOwn(machine.label);
  if (why === undefined || allowMissing.includes('qemu-label')) return;
  throw layerMissingError('qemu-label', why);
}
