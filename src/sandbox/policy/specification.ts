import type { LibvirtNetwork } from '../domain/domain-xml.ts';
import type { LabelRequest } from '../labels/request.ts';
import type { SeccompFilter } from '../seccomp/profile.ts';
import type { LandlockWall } from '../wire/exec.ts';
import type { Capability } from './capabilities.ts';
import type { OptionalLayer } from './layers.ts';

/** A file or folder of the host in the sandbox. Its owner on the host is the command's user in the sandbox. */
export interface Bind {
  /** Absolute path on the host. */
  readonly source: string;
  /**
   * The file itself, opened by the caller (O_PATH). `source` is then only its name in messages and is not
   * resolved.
   */
  readonly descriptor?: number;
  /** Absolute path in the sandbox. */
  readonly target: string;
  readonly readonly: boolean;
  /**
   * SELinux: gives the files on the host the label of all sandboxes (`shared`, podman's `z`) or of this one
   * alone (`private`, `Z`). They keep it.
   */
  readonly relabel?: 'shared' | 'private';
  /** True for a folder of kiln's own (a cache below KILN_STATE), which only root can reach on the host. */
  readonly own?: true;
}

/** A part of the sandbox's own tree that outlives it. Owners on disk are the ids in the sandbox. */
interface Volume {
  /** A directory of the host, or the descriptor of a detached mount, which is taken over. */
  readonly source: string | number;
  /** Absolute path in the sandbox. */
  readonly target: string;
}

/**
 * A complete, plain description of a sandbox: everything that decides what is in force. planSandbox() makes it.
 */
export interface SandboxSpecification {
  /** The image's tree: a host path with real owners. It is never written to. */
  readonly root: string;
  /** The image's id, for `kiln ps`, and so that the image is not deleted meanwhile. */
  readonly image?: string;
  /**
   * A host directory for the overlay's upper and work directories, made if it is missing. Without it they are
   * on a tmpfs.
   */
  readonly scratch?: string;
  /** Whether /tmp, /var/tmp and /run are private, empty tmpfs. A transaction writes to the image's own. */
  readonly privateTmp: boolean;
  readonly hostname: string;
  /**
   * Whether /etc/hosts gets localhost and the host name and, with a network, /etc/resolv.conf its name servers.
   * They are not stored in `scratch`. Not for a tree whose /etc is in `volumes`.
   */
  readonly names: boolean;
  readonly network: 'private' | 'host' | LibvirtNetwork;
  readonly binds: readonly Bind[];
  /** The caller confirms writable binds of folders that the host needs; see {@link refuseHostWrite}. */
  readonly allowHostWrite: boolean;
  /** Mounted before the private tmpfs, which may lie in them. */
  readonly volumes: readonly Volume[];
  /** Parts of the tree that nobody in the sandbox can write to, such as /usr. */
  readonly readonlyPaths: readonly string[];
  readonly tmpfs: readonly { readonly target: string; readonly bytes: number }[];
  /** Small files written before the command starts; content is text. */
  readonly files: readonly {
    readonly path: string;
    readonly mode: number;
    readonly content: string;
  }[];
  /** Files in /run/secrets that only the command's user can read. */
  readonly secrets: readonly Secret[];
  /** How many namespaces of each kind commands may make; null if only their capabilities decide. */
  readonly namespaces: number | null;
  /** The label of SELinux or AppArmor; see {@link LabelRequest}. */
  readonly label: LabelRequest;
  /** Layers that may be missing on this host. */
  readonly allowMissing: readonly OptionalLayer[];
  /** Bytes each tmpfs may hold: upper, /tmp, /var/tmp, /run, /dev/shm. */
  readonly disk: number;
  readonly limits: SandboxLimits;
  /**
   * Whether other sandboxes are made inside. Its /proc is whole then: the kernel lets nobody mount a fresh
   * /proc below a user namespace that sees parts of its own covered.
   */
  readonly nested: boolean;
  /**
   * Whether its command is a systemd. It gets a cgroup tree of its own, and may mount and make namespaces, but
   * no user namespaces.
   */
  readonly boot: boolean;
}

/** Content that is never logged or stored. */
export interface Secret {
  /** Its name in /run/secrets. */
  readonly name: string;
  readonly content: Buffer;
}

/** The limits of a sandbox; undefined means no limit of its own. */
export interface SandboxLimits {
  /** Bytes, its tmpfs and page cache included. */
  readonly memory?: number;
  /** Processors' worth of time, such as 1.5. */
  readonly cpus?: number;
  /** Processes and threads. */
  readonly pids?: number;
  /** Bytes per second that are read from each disk it reaches. */
  readonly ioRead?: number;
  /** Bytes per second that are written to each disk it reaches. */
  readonly ioWrite?: number;
}

/** The user and rights of a command. Only commandPolicy() makes one. */
export interface CommandPolicy {
  /** NAME|UID[:GROUP|GID], names as in the image's /etc/passwd. */
  readonly user: string;
  /** The bounding set. It is in force for container root; other users have no capability. */
  readonly capabilities: readonly Capability[];
  readonly seccomp: SeccompFilter;
  /** See landlockWalls(). */
  readonly landlock: readonly LandlockWall[];
  /** True if the host's abstract sockets are open to the command: Landlock is missing and may be. */
  readonly openSockets: boolean;
}
