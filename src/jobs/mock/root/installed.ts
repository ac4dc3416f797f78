import { KilnError } from '../../../errors.ts';
import type { RootSandbox } from './root-sandbox.ts';

/** A package in the root's own rpm database. */
export interface InstalledPackage {
  readonly name: string;
  readonly arch: string;
  /** name-[epoch:]version-release.arch, without an epoch of 0. */
  readonly nevra: string;
}

/** The format of rpm's lines: name, epoch, version, release, architecture. */
const FORMAT = '%{name}\t%{epochnum}\t%{version}\t%{release}\t%{arch}\n';

/**
 * The installed packages by the root's own rpm; keys are not packages. @throws KilnError E_MOCK_PACKAGES when
 * there is no rpm, or it fails.
 */
export async function installedPackages(
  sandbox: RootSandbox,
  signal?: AbortSignal,
): Promise<InstalledPackage[]> {
  const argv = ['rpm', '-qa', '--qf', FORMAT];
  const { exitCode, stdout, output } = await sandbox.capture(argv, { signal });
  if (exitCode !== 0) {
    throw new KilnError(
      'E_MOCK_PACKAGES',
      `rpm cannot list the installed packages: ${output.trim()}`,
      {
        hint: '`kiln-mock --clean` removes the root; the next call makes it anew',
      },
    );
  }
  const packages: InstalledPackage[] = [];
  for (const line of stdout.split('\n')) {
    const [name, epoch, version, release, arch] = line.split('\t');
    if (name === undefined || arch === undefined || name === 'gpg-pubkey') continue;
    const prefix = epoch === '0' ? '' : `${epoch}:`;
    packages.push({ name, arch, nevra: `${name}-${prefix}${version}-${release}.${arch}` });
  }
  return packages;
}
