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

interface Rule {
  readonly action: string;
  readonly names?: readonly string[];
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
