/** Checks that rpm can skip: packages were verified, and chosen for this architecture. */
export const VERIFIED_BEFORE: readonly string[] = [
  '--noverify',
  '--nodigest',
  '--nosignature',
  '--ignorearch',
  '--ignoreos',
  '--ignoresize',
];

/** Also skips what the solver has done. */
export const SOLVED_BEFORE: readonly string[] = ['--nodeps', ...VERIFIED_BEFORE];
