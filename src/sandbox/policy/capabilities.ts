import { KilnError } from '../../errors.ts';

/** Capabilities by their number, from linux/capability.h (41 of them since Linux 5.9). */
const NAMES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'DAC_READ_SEARCH',
  'FOWNER',
  'FSETID',
  'KILL',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'LINUX_IMMUTABLE',
  'NET_BIND_SERVICE',
  'NET_BROADCAST',
  'NET_ADMIN',
  'NET_RAW',
  'IPC_LOCK',
  'IPC_OWNER',
  'SYS_MODULE',
  'SYS_RAWIO',
  'SYS_CHROOT',
  'SYS_PTRACE',
  'SYS_PACCT',
  'SYS_ADMIN',
  'SYS_BOOT',
  'SYS_NICE',
  'SYS_RESOURCE',
  'SYS_TIME',
  'SYS_TTY_CONFIG',
  'MKNOD',
  'LEASE',
  'AUDIT_WRITE',
  'AUDIT_CONTROL',
  'SETFCAP',
  'MAC_OVERRIDE',
  'MAC_ADMIN',
  'SYSLOG',
  'WAKE_ALARM',
  'BLOCK_SUSPEND',
  'AUDIT_READ',
  'PERFMON',
  'BPF',
  'CHECKPOINT_RESTORE',
] as const;

/** A capability without its `CAP_`, as in capabilities(7). */
export type Capability = (typeof NAMES)[number];

/** The capabilities that scriptlets of packages need as container root. */
export const TRANSACTION_CAPABILITIES: readonly Capability[] = [
  'CHOWN',
  'FOWNER',
  'FSETID',
  'DAC_OVERRIDE',
  'SETUID',
  'SETGID',
  'SETFCAP',
  'SYS_CHROOT',
];

/** The capabilities that container root keeps by default: podman's set. */
export const ROOT_CAPABILITIES: readonly Capability[] = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FOWNER',
  'FSETID',
  'KILL',
  'NET_BIND_SERVICE',
  'SETFCAP',
  'SETGID',
  'SETPCAP',
  'SETUID',
  'SYS_CHROOT',
];

/**
 * What a systemd that boots in a sandbox has beside root's capabilities: mounts, namespaces, its cgroups, and
 * the end of its own pid namespace (reboot(2)); only in the sandbox's user namespace.
 */
export const BOOT_CAPABILITIES: readonly Capability[] = ['SYS_ADMIN', 'SYS_BOOT'];

/** Reads `CAP_NET_ADMIN`, `net_admin`, …. Throws E_ARGUMENT for an unknown name. */
export function parseCapability(text: string): Capability {
  const name = text.toUpperCase().replace(/^CAP_/, '');
  const found = NAMES.find((candidate) => candidate === name);
  if (found !== undefined) return found;
  throw new KilnError('E_ARGUMENT', `no such capability: ${text}`, {
    hint: 'capabilities(7) lists the names, such as NET_BIND_SERVICE',
  });
}

/** The set as the kernel stores it: bit n for capability n. */
export function capabilityMask(capabilities: readonly Capability[]): bigint {
  return capabilities.reduce((mask, name) => mask | (1n << BigInt(NAMES.indexOf(name))), 0n);
}

/** The names in a mask, such as the CapBnd line of /proc/PID/status. */
export function capabilityNames(mask: bigint): Capability[] {
  return NAMES.filter((_, index) => ((mask >> BigInt(index)) & 1n) === 1n);
}
