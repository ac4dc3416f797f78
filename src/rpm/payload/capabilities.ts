/**
 * File capabilities, from the text in a header to the extended attribute security.capability.
 * Sources: cap_from_text(3), linux/capability.h (struct vfs_cap_data, version 2).
 */
import { rpmError } from '../errors.ts';

/** Numbers of linux/capability.h; a name's place is its number. */
const NAMES = [
  ...['chown', 'dac_override', 'dac_read_search', 'fowner', 'fsetid', 'kill', 'setgid', 'setuid'],
  ...['setpcap', 'linux_immutable', 'net_bind_service', 'net_broadcast', 'net_admin', 'net_raw'],
  ...['ipc_lock', 'ipc_owner', 'sys_module', 'sys_rawio', 'sys_chroot', 'sys_ptrace', 'sys_pacct'],
  ...['sys_admin', 'sys_boot', 'sys_nice', 'sys_resource', 'sys_time', 'sys_tty_config', 'mknod'],
  ...['lease', 'audit_write', 'audit_control', 'setfcap', 'mac_override', 'mac_admin', 'syslog'],
  ...['wake_alarm', 'block_suspend', 'audit_read', 'perfmon', 'bpf', 'checkpoint_restore'],
];

export const CAPABILITY_XATTR = 'security.capability';

const REVISION_2 = 0x02000000;
const EFFECTIVE = 1;

type Sets = Record<'e' | 'p' | 'i', bigint>;

/**
 * The attribute's value for clauses such as `cap_net_raw,cap_net_admin=ep` or `=`.
 * @throws KilnError E_RPM_UNSUPPORTED for a capability or clause this does not know.
 */
export function capabilityXattr(text: string): Buffer {
  const sets: Sets = { e: 0n, p: 0n, i: 0n };
  for (const clause of text.trim().split(/\s+/)) apply(clause, sets);
  const value = Buffer.alloc(20);
  value.writeUInt32LE(REVISION_2 | (sets.e === 0n ? 0 : EFFECTIVE), 0);
  for (const half of [0, 1]) {
    const shift = BigInt(32 * half);
    value.writeUInt32LE(Number((sets.p >> shift) & 0xffffffffn), 4 + 8 * half);
    value.writeUInt32LE(Number((sets.i >> shift) & 0xffffffffn), 8 + 8 * half);
  }
  return value;
}

/** One clause: names (none or `all` for every capability), then operators with set letters. */
function apply(clause: string, sets: Sets): void {
  const match = /^([a-z0-9_,]*)((?:[=+-][eip]*)+)$/i.exec(clause);
  if (match === null) throw unknown(clause);
  const mask = maskOf(match[1]!);
  for (const [, operator, letters] of match[2]!.matchAll(/([=+-])([eip]*)/g)) {
    for (const set of ['e', 'p', 'i'] as const) {
      if (operator === '=') sets[set] &= ~mask;
      if (!letters!.includes(set)) continue;
      if (operator === '-') sets[set] &= ~mask;
      else sets[set] |= mask;
    }
  }
}

function maskOf(list: string): bigint {
  if (list === '' || list.toLowerCase() === 'all') return (1n << BigInt(NAMES.length)) - 1n;
  let mask = 0n;
  for (const name of list.toLowerCase().split(',')) {
    const number = name.startsWith('cap_') ? NAMES.indexOf(name.slice(4)) : Number(name || NaN);
    if (!Number.isInteger(number) || number < 0 || number > 63) throw unknown(name);
    mask |= 1n << BigInt(number);
  }
  return mask;
}

function unknown(what: string) {
  return rpmError('E_RPM_UNSUPPORTED', `a file has the unknown capabilities '${what}'`);
}
