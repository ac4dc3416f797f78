/** rpm need not do again what has been done before: packages were verified, and chosen for this architecture. */
export const VERIFIED_BEFORE: readonly string[] = [
  '--noverify',
  '--nodigest',
  '--nosignature',
  '--ignorearch',
  '--ignoreos',
  '--ignoresize',
];

/** Nor what a solver has done. */
export const SOLVED_BEFORE: readonly string[] = ['--nodeps', ...VERIFIED_BEFORE];
