/** Small RPMs made by rpmbuild and repositories made by createrepo_c, for tests. */
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** One package. Lists hold what stands after `Requires:` and so on in a spec file. */
export interface PackageSpec {
  readonly name: string;
  readonly version?: string;
  readonly release?: string;
  readonly epoch?: number;
  /** noarch unless given. */
  readonly arch?: 'noarch' | 'x86_64';
  readonly requires?: readonly string[];
  readonly recommends?: readonly string[];
  readonly supplements?: readonly string[];
  readonly provides?: readonly string[];
  readonly conflicts?: readonly string[];
  readonly obsoletes?: readonly string[];
  /** As in a spec file; the packages of one batch share it. */
  readonly changelog?: string;
  /** Paths, with their content. */
  readonly files?: Readonly<Record<string, string>>;
}

/** A folder below the system's temporary one that is deleted after the test. */
export async function temporaryDirectory(t: {
  teardown: (clean: () => Promise<void>) => void;
}): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-repository-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Builds packages into `directory`. Several versions of one name may be given. */
export async function buildPackages(
  directory: string,
  packages: readonly PackageSpec[],
): Promise<void> {
  await mkdir(directory, { recursive: true });
  const batches: PackageSpec[][] = [];
  for (const spec of packages) {
    const batch = batches.find((members) => members.every(({ name }) => name !== spec.name));
    if (batch === undefined) batches.push([spec]);
    else batch.push(spec);
  }
  for (const batch of batches) await buildBatch(directory, batch);
}

async function buildBatch(directory: string, batch: readonly PackageSpec[]): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-rpmbuild-'));
  try {
    const spec = join(work, 'batch.spec');
    await writeFile(spec, specText(batch));
    const define = (name: string, value: string) => ['--define', `${name} ${value}`];
    await execa('rpmbuild', [
      ...['-bb', '--quiet', '--nodeps', '--target', 'x86_64-linux'],
      ...define('_topdir', work),
      ...define('_build_id_links', 'none'),
      ...define('_binary_payload', 'w1.gzdio'),
      ...define('source_date_epoch_from_changelog', '0'),
      spec,
    ]);
    for (const arch of await readdir(join(work, 'RPMS'))) {
      for (const file of await readdir(join(work, 'RPMS', arch))) {
        await rename(join(work, 'RPMS', arch, file), join(directory, file));
      }
    }
  } finally {
    await rm(work, { recursive: true });
  }
}

function specText(batch: readonly PackageSpec[]): string {
  const head = `
%global debug_package %{nil}
%global __os_install_post %{nil}
Name: batch
Version: 1
Release: 1
Summary: Fixture
License: MIT
AutoReqProv: no
%description
Fixture
%install
${batch.flatMap(({ files = {} }) => Object.entries(files).map(([path, content]) => `mkdir -p "$(dirname '%{buildroot}${path}')"; printf %s '${content}' > '%{buildroot}${path}'`)).join('\n')}
`;
  const changes = batch.flatMap(({ changelog = [] }) => changelog);
  const tail = changes.length === 0 ? '' : `\n%changelog\n${changes.join('\n')}\n`;
  return head + batch.map(packageText).join('\n') + tail;
}

function packageText(spec: PackageSpec): string {
  const { name, version = '1', release = '1', epoch, arch = 'noarch', files = {} } = spec;
  const list = (tag: string, values: readonly string[] = []) =>
    values.map((value) => `${tag}: ${value}`);
  return [
    `%package -n ${name}`,
    'Summary: Fixture',
    `Version: ${version}`,
    `Release: ${release}`,
    ...(epoch === undefined ? [] : [`Epoch: ${epoch}`]),
    ...(arch === 'noarch' ? ['BuildArch: noarch'] : []),
    'AutoReqProv: no',
    ...list('Requires', spec.requires),
    ...list('Recommends', spec.recommends),
    ...list('Supplements', spec.supplements),
    ...list('Provides', spec.provides),
    ...list('Conflicts', spec.conflicts),
    ...list('Obsoletes', spec.obsoletes),
    `%description -n ${name}`,
    'Fixture',
    `%files -n ${name}`,
    ...Object.keys(files),
    '',
  ].join('\n');
}

/** Makes repodata/ in `directory`; `options` are createrepo_c's. */
export async function createRepository(
  directory: string,
  ...options: readonly string[]
): Promise<void> {
  await execa('createrepo_c', ['--quiet', ...options, directory]);
}
