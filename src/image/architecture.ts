/** This machine's architecture as rpm calls it. */
export function hostArchitecture(): string {
  const names: Readonly<Record<string, string>> = {
    x64: 'x86_64',
    arm64: 'aarch64',
    ppc64: 'ppc64le',
    ia32: 'i686',
  };
  return names[process.arch] ?? process.arch;
}
