import { resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { CAPABILITIES, type Capability } from '../../host/process/process.ts';
import type { SeccompFilter } from '../seccomp/profile.ts';
import type { LandlockWall } from '../wire/codec.ts';
import type { IsolationKind } from './ground-kinds.ts';
import type { GuestKernel } from './guest-kernel.ts';
import type { LabelRequest } from './label-request.ts';
import type { OptionalLayer } from './layers.ts';
import type { SandboxLimits } from './limits.ts';
import type { SandboxNetwork } from './network.ts';

/** As somebody has written it. */
export interface WantedBind {
  readonly source: string;
  readonly target: string;
  readonly readonly: boolean;
  /** Refused if a part of `source` is a symbolic link, which somebody else may have put there. */
  readonly noLinks?: true;
  /**
   * SELinux: gives the files on the host the label of all sandboxes (`shared`, podman's `z`) or of this one
   * alone (`private`, `Z`). They keep it.
   */
  readonly relabel?: 'shared' | 'private';
  /** The sandbox writes to a layer of its own above the folder, which is `readonly`. */
  readonly cow?: true;
  /** `source` is a file with a file system, which is unpacked: src/jobs/run/disk-images.ts. It is `readonly`. */
  readonly image?: true;
}

export interface Bind extends WantedBind {
  /** What is mounted; `source` is its name in messages. */
  readonly place: HeldPath;
  /**
   * True for this host's own /usr: read-only, with what is mounted below. No ids are mapped, so the sandbox sees what
   * everybody on the host may read.
   */
  readonly hosts?: true;
  /** True for a folder of kiln's own (a cache below KILN_STATE), which only root can reach on the host. */
  readonly own?: true;
}

/** An empty file system in memory; `disk` of the sandbox says what it may hold where `size` is missing. */
export interface Tmpfs {
  readonly target: string;
  readonly size?: number;
}

/** A place of the sandbox, with what is mounted below, that is seen at another one, too. */
export interface GuestBind {
  readonly source: string;
  readonly target: string;
  readonly readonly: boolean;
}

/** The init has mounts of its own there, and refuses what leads there by a link. */
export function isClosedPlace(path: string): boolean {
  return path === '/' || /^\/(?:proc|dev|sys|run\/secrets)(?:\/|$)/.test(path);
}

/** The place of a guest bind that would hide another mount. */
export function hidingTarget(
  guestBinds: readonly GuestBind[],
  mounts: readonly { readonly target: string }[],
): string | undefined {
  const hides = ({ target }: GuestBind) => {
    const others = [...mounts, ...guestBinds].filter((mount) => mount.target !== target);
    return others.some((mount) => resolve(mount.target).startsWith(`${resolve(target)}/`));
  };
  return guestBinds.find(hides)?.target;
}

/** What two are for: the second would hide the first. */
export function sharedTarget(mounts: readonly { readonly target: string }[]): string | undefined {
  const targets = mounts.map(({ target }) => resolve(target));
  return targets.find((target, index) => targets.indexOf(target) < index);
}

/** The fields that decide isolation. A job must name each: a default would hide one that was forgotten. */
export interface Isolation {
  readonly isolation: IsolationKind;
  readonly network: SandboxNetwork;
  readonly binds: readonly Bind[];
  readonly allowHostWrite: boolean;
  /** Paths below writable binds that stay as they are. */
  readonly protectedPaths: readonly string[];
  /** Whether /tmp, /var/tmp and /run are private, empty tmpfs. A transaction writes to the image's own. */
  readonly privateTmp: boolean;
  /** How many namespaces of each kind commands may make; null if only their capabilities decide. */
  readonly namespaces: number | null;
  /**
   * Whether other sandboxes are made inside. Its /proc is whole then: the kernel lets nobody mount a fresh
   * /proc below a user namespace that sees parts of its own covered.
   */
  readonly nested: boolean;
  readonly boot: boolean;
  readonly label: LabelRequest;
  readonly allowMissing: readonly OptionalLayer[];
}

/** What a sandbox has inside. */
export interface Interior {
  /** A host directory for the overlay's upper and work directories, made if it is missing; else a tmpfs. */
  readonly scratch?: string;
  /** The sandbox gets such a directory of its own, which goes with it. */
  readonly upperOnDisk?: boolean | undefined;
  readonly hostname: string;
  /**
   * Whether /etc/hosts and, with a network, /etc/resolv.conf are made. They are not stored in `scratch`. Not for
   * a tree whose /etc is in `volumes`.
   */
  readonly names: boolean;
  readonly readonlyPaths: readonly string[];
  /** Whether nothing can be written but to what is mounted in the root. */
  readonly readonlyRoot: boolean;
  readonly tmpfs: readonly Tmpfs[];
  readonly guestBinds: readonly GuestBind[];
  readonly files: readonly {
    readonly path: string;
    readonly mode: number;
    readonly content: string;
  }[];
  /** Of a machine, which boots the newest of the host's without. */
  readonly kernel?: string;
  /** Bytes each tmpfs may hold: upper, /tmp, /var/tmp, /run, /dev/shm. */
  readonly disk: number;
  readonly limits: SandboxLimits;
}

/** The image of a sandbox. */
export interface SandboxImage {
  /** The image's tree: a host path with real owners. It is never written to. */
  readonly root: string;
  readonly image?: string;
  /** What a machine of it boots unless told otherwise, by paths in the tree. */
  readonly kernelInside?: GuestKernel;
  /** Layers of snapshots above the tree, the lowest first; each is a host path, as `root`. */
  readonly layers?: readonly SnapshotLayer[];
}

export interface SnapshotLayer {
  readonly id: string;
  readonly tree: string;
}

export interface SandboxSpecification extends SandboxImage, Isolation, Interior {
  /** A number is the descriptor of a detached mount. */
  readonly volumes: readonly {
    readonly source: string | number;
    readonly target: string;
    readonly readonly?: true;
  }[];
  readonly secrets: readonly Secret[];
}

/** Content that is never logged or stored. */
export interface Secret {
  readonly name: string;
  readonly content: Buffer;
}

/** The user and rights of a command. Only commandPolicy() makes one. */
export interface CommandPolicy {
  readonly user: string;
  readonly capabilities: readonly Capability[];
  readonly seccomp: SeccompFilter;
  readonly landlock: readonly LandlockWall[];
  /** True if the host's abstract sockets are open to the command: Landlock is missing and may be. */
  readonly openSockets: boolean;
}

/**
 * What decides which walls a sandbox's commands need. Always made from the sandbox's own specification, and kept
 * with a kept sandbox, so a caller that starts a command cannot forget a part.
 */
export interface Surroundings {
  readonly hostNetwork: boolean;
  readonly mounts: boolean;
  readonly userNamespaces: boolean;
  readonly hostFiles: boolean;
  /** Whether files of the host are there at all, read-only or not. */
  readonly shownFiles: boolean;
  readonly allowHostWrite: boolean;
  readonly allowMissing: readonly OptionalLayer[];
}

export function surroundingsOf(specification: Isolation): Surroundings {
  const { network, nested, boot, namespaces, binds, allowHostWrite, allowMissing } = specification;
  return {
    hostNetwork: network === 'host',
    mounts: nested || boot,
    userNamespaces: nested || namespaces !== 0,
    hostFiles: binds.some(({ readonly, own }) => !readonly && own !== true),
    shownFiles: binds.some(({ own }) => own !== true),
    allowHostWrite,
    allowMissing,
  };
}

export const TRANSACTION_CAPABILITIES: readonly Capability[] = [
  ...(['CHOWN', 'FOWNER', 'FSETID', 'DAC_OVERRIDE', 'SETUID', 'SETGID'] as const),
  ...(['SETFCAP', 'SYS_CHROOT'] as const),
];

/** The capabilities that container root keeps by default: podman's set. */
export const ROOT_CAPABILITIES: readonly Capability[] = [
  ...(['CHOWN', 'DAC_OVERRIDE', 'FOWNER', 'FSETID', 'KILL', 'NET_BIND_SERVICE'] as const),
  ...(['SETFCAP', 'SETGID', 'SETPCAP', 'SETUID', 'SYS_CHROOT'] as const),
];

/**
 * What a systemd that boots in a sandbox has beside root's capabilities: mounts, namespaces, its cgroups, and
 * the end of its own pid namespace (reboot(2)); only in the sandbox's user namespace.
 */
export const BOOT_CAPABILITIES: readonly Capability[] = ['SYS_ADMIN', 'SYS_BOOT'];

/** Reads `CAP_NET_ADMIN`, `net_admin`, …. Throws E_ARGUMENT for an unknown name. */
export function parseCapability(text: string): Capability {
  const name = text.toUpperCase().replace(/^CAP_/, '');
  const found = CAPABILITIES.find((candidate) => candidate === name);
  if (found !== undefined) return found;
  throw new KilnError('E_ARGUMENT', `no such capability: ${text}`, {
    hint: 'capabilities(7) lists the names, such as NET_BIND_SERVICE',
  });
}

export function capabilityMask(capabilities: readonly Capability[]): bigint {
  return capabilities.reduce((mask, name) => mask | (1n << BigInt(CAPABILITIES.indexOf(name))), 0n);
}

export function capabilityNames(mask: bigint): Capability[] {
  return CAPABILITIES.filter((_, index) => ((mask >> BigInt(index)) & 1n) === 1n);
}
