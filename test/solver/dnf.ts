/** dnf 4 as a second opinion: what it would install into an empty root. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

export interface DnfOptions {
  readonly weak?: boolean;
  readonly exclude?: readonly string[];
}

/** NEVRAs (without epoch 0), sorted, or undefined if dnf finds no solution. */
export async function dnfSolution(
  directories: readonly string[],
  install: readonly string[],
  options: DnfOptions = {},
): Promise<string[] | undefined> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-dnf-'));
  try {
    const repositories = directories.map(
      (path, index) => `--repofrompath=r${index},file://${path}`,
    );
    const set = (name: string, value: string) => `--setopt=${name}=${value}`;
    const result = await execa(
      'dnf',
      [
        ...['-y', '-q', `--installroot=${work}/root`, '--releasever=1', '--forcearch=x86_64'],
        ...[set('reposdir', `${work}/none`), set('cachedir', `${work}/cache`)],
        set('plugins', '0'),
        ...[set('gpgcheck', '0'), set('install_weak_deps', options.weak ? '1' : '0')],
        ...[set('best', '1'), set('keepcache', '1'), set('optional_metadata_types', 'filelists')],
        ...(options.exclude ?? []).map((pattern) => `--exclude=${pattern}`),
        ...repositories,
        ...['--downloadonly', `--downloaddir=${work}/got`, 'install', ...install],
      ],
      { reject: false },
    );
    if (result.exitCode !== 0) {
      // Anything but "no solution" is no opinion.
      if (/Error:\s*\n? ?Problem|Unable to find a match/.test(result.stderr)) return undefined;
      throw new Error(`dnf failed: ${result.stderr}`);
    }
    const files = await readdir(join(work, 'got')).catch(() => []);
    const paths = files
      .filter((name) => name.endsWith('.rpm'))
      .map((name) => join(work, 'got', name));
    const { stdout } = await execa('rpm', ['-qp', '--nosignature', '--qf', NEVRA, ...paths]);
    return stdout.split('\n').filter(Boolean).sort();
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

const NEVRA = '%{NAME}-%|EPOCH?{%{EPOCH}:}|%{VERSION}-%{RELEASE}.%{ARCH}\\n';
