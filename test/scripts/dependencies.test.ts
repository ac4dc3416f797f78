import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');

/** It comes with what it would build, and works without its script having run. */
const WITH_SCRIPTS = ['node_modules/koffi'];

interface LockedPackage {
  readonly integrity?: string;
  readonly link?: boolean;
  /** It is inside another package, whose digest is its own. */
  readonly inBundle?: boolean;
  readonly hasInstallScript?: boolean;
}

async function locked(folder: string): Promise<[string, LockedPackage][]> {
  const text = await readFile(join(top, folder, 'package-lock.json'), 'utf8');
  const { packages } = JSON.parse(text) as { packages: Record<string, LockedPackage> };
  return Object.entries(packages).filter(([name]) => name !== '');
}

for (const folder of ['.', 'scripts/setup/toolchain']) {
  test(`every package of ${folder}/package-lock.json is pinned by a digest`, async (t) => {
    const packages = await locked(folder);
    t.true(packages.length > 0);
    for (const [name, { integrity, link, inBundle }] of packages) {
      t.not(link, true, name);
      if (inBundle === true) continue;
      t.regex(integrity ?? '', /^sha512-[A-Za-z0-9+/]{86}==$/, name);
    }
  });

  test(`no package of ${folder} runs anything during its installation`, async (t) => {
    const scripted = (await locked(folder)).filter(([, { hasInstallScript }]) => hasInstallScript);
    t.deepEqual(
      scripted.map(([name]) => name).filter((name) => !WITH_SCRIPTS.includes(name)),
      [],
    );
  });
}

test('npm runs no scripts here, and kiln has none for an installation', async (t) => {
  const { stdout } = await execa('npm', ['config', 'get', 'ignore-scripts'], { cwd: top });
  t.is(stdout.trim(), 'true');
  const { scripts } = JSON.parse(await readFile(join(top, 'package.json'), 'utf8'));
  for (const name of ['preinstall', 'install', 'postinstall', 'prepare']) {
    t.false(name in scripts, name);
  }
});

test('scripts/sbom names everything that kiln depends on, with versions', async (t) => {
  const { stdout } = await execa(join(top, 'scripts/sbom'), { cwd: top });
  const sbom = JSON.parse(stdout) as {
    spdxVersion: string;
    packages: { name: string; versionInfo: string }[];
  };
  t.is(sbom.spdxVersion, 'SPDX-2.3');
  const versions = new Map(sbom.packages.map(({ name, versionInfo }) => [name, versionInfo]));
  const own = JSON.parse(await readFile(join(top, 'package.json'), 'utf8'));
  for (const [name, version] of Object.entries({
    ...own.dependencies,
    ...own.devDependencies,
  })) {
    t.is(versions.get(name), version as string);
  }
});
