/** Tiny source packages, made by rpmbuild, that need each other. */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** One source package; it makes NAME and NAME-devel. */
export interface SourceSpec {
  readonly name: string;
  readonly version?: string;
  /** Capabilities, as a spec has them. */
  readonly buildRequires?: readonly string[];
  /** Of NAME-devel, beyond its own name. */
  readonly provides?: readonly string[];
  /** Shell, in %build. */
  readonly build?: string;
  /** More lines for the preamble. */
  readonly preamble?: string;
  /** More sections. */
  readonly sections?: string;
}

/** Makes NAME-VERSION-1.src.rpm in `directory` and returns its path. */
export async function sourcePackage(directory: string, spec: SourceSpec): Promise<string> {
  await mkdir(directory, { recursive: true });
  const work = await mkdtemp(join(tmpdir(), 'kiln-srpm-'));
  try {
    const path = join(work, `${spec.name}.spec`);
    await writeFile(path, specText(spec));
    const top = ['--define', `_topdir ${work}`, '--define', `_srcrpmdir ${directory}`];
    await execa('rpmbuild', ['-bs', '--quiet', '--nodeps', ...top, path]);
  } finally {
    await rm(work, { recursive: true });
  }
  const file = `${spec.name}-${spec.version ?? '1'}-1.src.rpm`;
  if (!(await readdir(directory)).includes(file)) throw new Error(`rpmbuild made no ${file}`);
  return join(directory, file);
}

/**
 * What a package is built with is written into it: /usr/share/chain/NAME is its version and the
 * content of all such files in the build root.
 */
function specText(spec: SourceSpec): string {
  const { name, version = '1', buildRequires = [], provides = [], build = ':' } = spec;
  return `
Name: ${name}
Version: ${version}
Release: 1
Summary: Fixture
License: MIT
BuildArch: noarch
${buildRequires.map((capability) => `BuildRequires: ${capability}`).join('\n')}
${spec.preamble ?? ''}
%description
Fixture.
%package devel
Summary: Fixture
${provides.map((capability) => `Provides: ${capability}`).join('\n')}
%description devel
Fixture.
%prep
%build
${build}
( printf '${name}-${version}'; cat /usr/share/chain/* 2>/dev/null | tr '\\n' ' ' | sed 's/^/ (/; s/ *$/)/' ) > made
%install
mkdir -p %{buildroot}/usr/share/chain %{buildroot}/usr/share/${name}
cp made %{buildroot}/usr/share/chain/${name}
echo ${name} > %{buildroot}/usr/share/${name}/main
%files
/usr/share/${name}
%files devel
/usr/share/chain/${name}
${spec.sections ?? ''}
`;
}
