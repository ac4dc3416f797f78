/**
 * A profile for commands whose files lie on the host's disk: it takes away what reserves space without writing
 * it. fallocate(2) takes a terabyte in a millisecond, before anybody can look; what is written comes no faster
 * than memory is copied, which src/state/disk-watch.ts reckons with.
 */
interface Rule {
  readonly names?: readonly string[] | undefined;
  readonly action: string;
}

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
