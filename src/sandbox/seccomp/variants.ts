/**
 * The profile for a box in which other sandboxes are made: the default one, and what it takes to
 * make namespaces, mounts and a new root in a user namespace. Each call still needs the capability
 * for it in the namespace it acts on, and a box's namespaces are its own.
 */

/** What bubblewrap, unshare(1), setpriv(1) and kiln's own confinement use; no more than that. */
const ALLOWED: readonly string[] = [
  ...['unshare', 'setns', 'clone', 'clone3'],
  ...['mount', 'umount', 'umount2', 'pivot_root', 'chroot'],
  ...['open_tree', 'move_mount', 'mount_setattr', 'fsopen', 'fsconfig', 'fsmount', 'fspick'],
  ...['sethostname', 'setdomainname'],
];

/** A rule of a profile as podman has it. */
interface Rule {
  readonly action: string;
  readonly names?: readonly string[] | undefined;
  readonly args?: readonly { readonly index: number; readonly value: number }[] | null;
}

/** `base`, a profile as podman has it, with those calls allowed whatever the capabilities are. */
export function nestedProfile<Profile extends { readonly syscalls: readonly Rule[] }>(
  base: Profile,
): Omit<Profile, 'syscalls'> & { readonly syscalls: readonly Rule[] } {
  const others = base.syscalls.flatMap((rule) => {
    const names = rule.names?.filter((name) => !ALLOWED.includes(name));
    return names?.length === 0 ? [] : [{ ...rule, ...(names && { names }) }];
  });
  return { ...base, syscalls: [...others, { action: 'SCMP_ACT_ALLOW', names: ALLOWED }] };
}

/*
 * The profile for a systemd that boots in a box, and whatever it starts: the nested one, but no
 * user namespaces, from which most of the kernel's rarely used code is reached.
 */

/** linux/sched.h */
const CLONE_NEWUSER = 0x1000_0000;

/** Flags are the first argument (on s390 the second of clone, where this refuses what it should not). */
const WITHOUT_USER_NAMESPACE = {
  action: 'SCMP_ACT_ALLOW',
  names: ['clone', 'unshare'],
  args: [{ index: 0, value: CLONE_NEWUSER, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
};

/** Its flags are in memory, where a filter cannot look: the C library and systemd fall back to clone. */
const NO_CLONE3 = { action: 'SCMP_ACT_ERRNO', names: ['clone3'], errnoRet: 38 };

/** `base`, a profile as podman has it, for a system's pid 1. */
export function bootProfile<Base extends Parameters<typeof nestedProfile>[0]>(base: Base) {
  const { syscalls, ...rest } = nestedProfile(base);
  const replaced = new Set([...WITHOUT_USER_NAMESPACE.names, ...NO_CLONE3.names]);
  const others = syscalls.map((rule) => ({
    ...rule,
    names: rule.names?.filter((name) => !replaced.has(name)),
  }));
  return { ...rest, syscalls: [...others, WITHOUT_USER_NAMESPACE, NO_CLONE3] };
}

/*
 * A profile for commands that must not use the network of a box that has one: no internet socket and
 * no packet socket can be made. What else there is of network, io_uring and sockets handed over, the
 * profiles refuse and a box does not have.
 */

/** AF_INET, AF_INET6, AF_PACKET of linux/socket.h. */
const FAMILIES: readonly number[] = [2, 10, 17];

/** `base`, a profile as podman has it that allows socket() by its family, less those families. */
export function offlineProfile<Profile extends { readonly syscalls: readonly Rule[] }>(
  base: Profile,
): Profile {
  const isOnline = ({ names, args }: Rule) =>
    names?.includes('socket') === true &&
    args?.some(({ index, value }) => index === 0 && FAMILIES.includes(value)) === true;
  return { ...base, syscalls: base.syscalls.filter((rule) => !isOnline(rule)) };
}

/*
 * A profile for commands whose files lie on the host's disk: it takes away what reserves space without writing
 * it. fallocate(2) takes a terabyte in a millisecond, before anybody can look; what is written comes no faster
 * than memory is copied, which src/state/disk-watch.ts reckons with.
 */

/** As file systems answer that cannot do it: the C library then writes zeros instead. EOPNOTSUPP of errno.h. */
const NO_FALLOCATE = { action: 'SCMP_ACT_ERRNO', names: ['fallocate'], errnoRet: 95 };

/** FS_IOC_RESVSP and its like of linux/falloc.h, and XFS's own: _IOW('X', …). The second byte is that letter. */
const LETTER = 0x58;
const LETTER_SHIFT = 8;

/** Every ioctl whose letter differs from `X` in one bit at least: no rule can say "not equal" of a part. */
const OTHER_IOCTLS = Array.from({ length: 8 }, (_, bit) => {
  const value = 1 << (LETTER_SHIFT + bit);
  const differs = (LETTER >> bit) % 2 === 0 ? value : 0;
  const args = [{ index: 1, op: 'SCMP_CMP_MASKED_EQ', value, valueTwo: differs }];
  return { action: 'SCMP_ACT_ALLOW', names: ['ioctl'], args };
});

/** `base`, a profile as podman has it that allows these calls, without them. */
export function onDiskProfile<Base extends { readonly syscalls: readonly Rule[] }>(base: Base) {
  const replaced = new Set(['fallocate', 'ioctl']);
  const others = base.syscalls.map((rule) =>
    rule.action === 'SCMP_ACT_ALLOW'
      ? { ...rule, names: rule.names?.filter((name) => !replaced.has(name)) }
      : rule,
  );
  return { ...base, syscalls: [...others, NO_FALLOCATE, ...OTHER_IOCTLS] };
}
