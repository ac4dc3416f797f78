import { existsSync } from 'node:fs';
import { copyFile, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { withLock } from '../../src/host/files/flock.ts';
import { DEFAULT_DISK } from '../../src/host/state/disk-watch.ts';
import { type StatePaths, statePaths } from '../../src/host/state/paths.ts';
import { planFromRecipe } from '../../src/image/plan.ts';
import { packageDirectory } from '../../src/image/store/entry.ts';
import { obtainPackages } from '../../src/image/store/packages.ts';
import { ensureStore } from '../../src/image/store/work-directory.ts';
import { ownCaller } from './own-caller.ts';

/** Records of an entry, which the store changes. */
const RECORDS = ['package.json', 'checks.json'];

/**
 * What a build root needs for packages without C: a sixth of the files of `buildsys-build`, each of which costs every
 * image, root and state of a test a link.
 */
export const NOARCH_ROOT: readonly string[] = [
  ...['base-files', 'base-passwd', 'bash', 'coreutils', 'dash', 'diffutils', 'file', 'findutils'],
  ...[
    'gawk',
    'grep',
    'gzip',
    'hostname',
    'libc-bin',
    'login.defs',
    'ncurses-base',
    'passwd',
    'patch',
  ],
  ...['procps', 'rpm', 'sed', 'tar', 'util-linux'],
];

/** A recipe of such an image: debian-build without a compiler. */
export const NOARCH_RECIPE = `extends: debian-minimal
packages: [file, patch]
files: [{ path: /etc/rpm/macros.kiln, content: "%_buildshell /bin/bash\\n" }]
`;

/** Packages of the fixtures: those of `buildsys-build`, or of {@link NOARCH_ROOT}, with what they need. */
export type UnpackedSet = 'all' | 'noarch';

/**
 * Gives a new state packages of the fixtures, unpacked, for tests that are about something else: unpacking all of
 * them takes five seconds of a processor. scripts/test names a folder (KILN_TEST_UNPACKED) in which they are unpacked
 * once for all files; their trees, which nobody writes to, are shared by hard links. Elsewhere the state stays empty.
 */
export async function giveUnpackedPackages(
  paths: StatePaths,
  set: UnpackedSet = 'all',
): Promise<void> {
  const folder = process.env.KILN_TEST_UNPACKED;
  if (folder === undefined) return;
  const made = statePaths({ KILN_STATE: join(folder, 'state') }).packages;
  const done = join(folder, 'noarch');
  await withLock(join(folder, 'lock'), async () => {
    if (existsSync(done)) return;
    const entries = await unpackAll(folder);
    await writeFile(`${done}.new`, entries.join('\n'));
    await rename(`${done}.new`, done);
  });
  ensureStore(paths);
  const entries = set === 'all' ? await readdir(made) : (await readFile(done, 'utf8')).split('\n');
  await execa('cp', ['-al', ...entries.map((entry) => join(made, entry)), paths.packages]);
  for (const entry of entries) {
    for (const name of RECORDS) {
      const path = join(paths.packages, entry, name);
      await copyFile(join(made, entry, name), `${path}.own`);
      await rename(`${path}.own`, path);
    }
  }
}

/** @returns the entries of {@link NOARCH_ROOT} */
async function unpackAll(folder: string): Promise<string[]> {
  const { directory, keyPath } = await ensureDebianRpms();
  const repository = { id: 'debian', directory, gpgcheck: true, gpgkey: keyPath };
  const paths = statePaths({ KILN_STATE: join(folder, 'state') });
  const plan = async (name: string, wanted: object) => {
    const recipe = join(folder, name);
    await writeFile(recipe, JSON.stringify({ repositories: [repository], ...wanted }));
    return (await planFromRecipe({ paths, ...ownCaller }, { path: recipe }, {})).lock;
  };
  await obtainPackages(paths, await plan('all.yaml', { groups: ['buildsys-build'] }), {
    disk: DEFAULT_DISK,
  });
  const { packages } = await plan('noarch.yaml', { packages: NOARCH_ROOT });
  return packages.map(({ digest }) => basename(packageDirectory(paths, digest)));
}
