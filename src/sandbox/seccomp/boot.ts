/**
 * The profile for a systemd that boots in a box, and whatever it starts: the nested one, but no
 * user namespaces, from which most of the kernel's rarely used code is reached.
 */
import { nestedProfile } from './nested.ts';

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
