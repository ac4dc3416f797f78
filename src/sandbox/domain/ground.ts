/** What a sandbox stands on: a container of the host's kernel, or a machine with a kernel of its own. */
import type { CgroupLimits } from '../../host/cgroup/cgroup-files.ts';
import type { CgroupUsage } from '../../host/cgroup/cgroup-usage.ts';
import type { Listener } from '../../host/sockets/unix-socket.ts';

/** What is known of a machine from outside: what its own kernel says may be a lie. */
export interface MachineFacts {
  /** Release of the guest's kernel, as kiln chose it. */
  readonly kernel: string;
  /** False where qemu emulates the processor. */
  readonly kvm: boolean;
}

/** The sandbox's files where this host cannot reach them. All throw KilnError E_MACHINE, E_SANDBOX_GONE. */
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
  /** Ends its processes, where the end of the connection to the init does not. */
  end(): void;
}
