/**
 * libsolv's policy for packages made for this architecture (and noarch) only, where its own would
 * add a 32-bit one; undefined where that adds none.
 */
export function nativePolicy(arch: string): string | undefined {
  const level = /^x86_64(?:_v([2-4]))?$/.exec(arch);
  if (level === null) return undefined;
  const names = ['x86_64'];
  for (let version = 2; version <= Number(level[1] ?? 1); version++) {
    names.unshift(`x86_64_v${version}`);
  }
  return names.join(':');
}
