import type { LibvirtNetwork } from '../domain/domain-xml.ts';
import type { LabelRequest } from '../labels/request.ts';
import type { SeccompFilter } from '../seccomp/profile.ts';
import type { LandlockWall } from '../wire/exec.ts';
import type { Capability } from './capabilities.ts';
import type { OptionalLayer } from './layers.ts';

/** A part of the host that the sandbox sees. Its owner on the host is the command's user in the sandbox. */
export interface Bind {
  /** Absolute path on the host. */
  readonly source: string;
  /**
   * The file itself, which the caller has opened (O_PATH): `source` is then only what it is called, and nobody
   * looks for it by that name.
   */
  readonly descriptor?: number;
  /** Absolute path in the sandbox. */
  readonly target: string;
  readonly readonly: boolean;
  /**
   * SELinux: gives the host's files the label of all sandboxes (`shared`, podman's `z`) or of this one
   * alone (`private`, `Z`). They keep it.
   */
  readonly relabel?: 'shared' | 'private';
  /** It is kiln's own (a cache below KILN_STATE), where nobody of the host but root comes. */
  readonly own?: true;
}

/** A part of the sandbox's own tree that outlives it: owners on disk are those in the sandbox. */
interface Volume {
  /** A directory of the host's, or the descriptor of a detached mount, which is taken over. */
  readonly source: string | number;
  /** Absolute path in the sandbox. */
  readonly target: string;
}

/** A sandbox, described: plain, complete. Everything that decides what is in force. planSandbox() makes it. */
export interface SandboxSpecification {
  /** The image's tree: a host path, owned by real ids, never written to. */
  readonly root: string;
  /** Id of the image, for `ps` and so that nobody deletes it meanwhile. */
  readonly image?: string;
  /**
   * A host directory for the overlay's upper and work directories, made when missing. Without it
   * they are on a tmpfs.
   */
  readonly scratch?: string;
  /** /tmp, /var/tmp and /run are a private, empty tmpfs. A transaction writes to the image's own. */
  readonly privateTmp: boolean;
  readonly hostname: string;
  /**
   * /etc/hosts has localhost and the host name, and where there is a network /etc/resolv.conf its
   * name servers. Nothing of them is in `scratch`. Not for a tree with an /etc of its own in `volumes`.
   */
  readonly names: boolean;
  readonly network: 'private' | 'host' | LibvirtNetwork;
  readonly binds: readonly Bind[];
  /** The caller confirms writable binds of what the host itself lives on; see {@link refuseHostWrite}. */
  readonly allowHostWrite: boolean;
  /** Mounted before the private tmpfs, which may lie in them. */
  readonly volumes: readonly Volume[];
  /** Parts of the tree that nobody in the sandbox can write to, as /usr. */
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
  /** How many namespaces of each kind commands may make; null leaves it to their capabilities. */
  readonly namespaces: number | null;
  /** SELinux' or AppArmor's; see {@link LabelRequest}. */
  readonly label: LabelRequest;
  /** Layers that need not be there where the host cannot give them. */
  readonly allowMissing: readonly OptionalLayer[];
  /** Bytes each tmpfs may hold: upper, /tmp, /var/tmp, /run, /dev/shm. */
  readonly disk: number;
  readonly limits: SandboxLimits;
  /**
   * Sandboxes are made in this one: its /proc is whole, for the kernel lets nobody mount a fresh one
   * below a user namespace that sees parts of its own covered.
   */
  readonly nested: boolean;
  /**
   * Its command is a systemd: it gets a cgroup tree of its own, and may mount and make namespaces,
   * but no user namespace.
   */
  readonly boot: boolean;
}

/** Something that is neither logged nor stored. */
export interface Secret {
  /** Its name in /run/secrets. */
  readonly name: string;
  readonly content: Buffer;
}

/** What a sandbox may use; undefined is no limit of its own. */
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

/** Who a command runs as, and what it may do. Only commandPolicy() makes one. */
export interface CommandPolicy {
  /** NAME|UID[:GROUP|GID], names as in the image's /etc/passwd. */
  readonly user: string;
  /** The bounding set; container root has it in force, other users have no capability. */
  readonly capabilities: readonly Capability[];
  readonly seccomp: SeccompFilter;
  /** See landlockWalls(). */
  readonly landlock: readonly LandlockWall[];
  /** The host's abstract sockets are not closed: Landlock is missing, and somebody said that it may be. */
  readonly openSockets: boolean;
}
