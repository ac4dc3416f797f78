/** Making images. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openBase } from '../../../src/jobs/rpmbuild/buildroot/base.ts';
import { openLayer, solveLayer } from '../../../src/jobs/rpmbuild/buildroot/layer.ts';
import { openRepositories } from '../../../src/packages/repository/open.ts';
import { type Bed, KILN } from '../bed.ts';
import { execute, type Side, shell } from '../measure.ts';
import type { Row } from '../row.ts';

/** Small ones that need nothing else. */
const FIVE = ['cpio', 'lzip', 'make', 'patch', 'unzip'];

/** Writes the names of the RPM files that the bed's image is made of, a line each. */
async function listPackages(bed: Bed): Promise<string> {
  const contents = JSON.parse(await readFile(join(bed.tree, '../contents.json'), 'utf8')) as {
    packages: Array<{ location: string }>;
  };
  const list = join(bed.scratch, 'packages');
  const files = contents.packages.map(({ location }) => join(bed.rpms, location));
  await writeFile(list, `${files.join('\n')}\n`);
  return list;
}

/** Neither the image nor any of its packages is there; the repository's metadata are. */
function coldImage(bed: Bed): Side {
  return {
    name: 'kiln image build',
    before: async () => {
      await execute([...KILN, 'image', 'rm', bed.image], bed.env).catch(() => undefined);
      await rm(bed.kiln.paths.packages, { recursive: true, force: true });
      await rm(bed.kiln.paths.trash, { recursive: true, force: true });
    },
    run: () => execute([...KILN, 'image', 'build', bed.recipe], bed.env),
  };
}

/** The same packages by dnf, which has the metadata in its cache after the first run. */
function dnf(bed: Bed): Side {
  const root = join(bed.scratch, 'dnfroot');
  const options = [
    ...['--installroot', root, '--releasever', '1', '--nogpgcheck'],
    ...['--repofrompath', `bench,file://${bed.rpms}`, '--repo', 'bench'],
    ...[
      '--setopt',
      `cachedir=${join(bed.scratch, 'dnfcache')}`,
      '--setopt',
      'reposdir=/nonexistent',
    ],
    ...['--setopt', 'install_weak_deps=0'],
  ];
  return {
    name: 'dnf --installroot',
    before: () => rm(root, { recursive: true, force: true }),
    run: async () => {
      const { packages } = JSON.parse(
        await readFile(join(bed.tree, '../contents.json'), 'utf8'),
      ) as { packages: Array<{ name: string }> };
      await execute([
        'dnf',
        '-q',
        '-y',
        ...options,
        'install',
        ...packages.map(({ name }) => name),
      ]);
      return undefined;
    },
  };
}

/** The image of a smaller recipe, and five packages of the same repository that it lacks. */
async function extension(bed: Bed): Promise<Side> {
  const { engine } = bed.kiln;
  const base = await openBase(engine, 'debian-minimal', { update: false });
  const context = { engine, base };
  const set = await openRepositories(base.repositories, { paths: engine.paths, refresh: 'auto' });
  const layer = await solveLayer(set, context, { requires: [], additionalPackages: FIVE });
  const added = layer.lock?.packages.length;
  if (added !== FIVE.length || layer.whole) throw new Error(`${added} packages would be added`);
  // They are in the store's cache of files, or local: only what is done with them is measured.
  return {
    name: 'base and five packages',
    before: async () => {
      await bed.park(2);
      for (const { manifest } of await bed.kiln.images()) {
        if (manifest.name.endsWith(`+${FIVE.length}`)) {
          await execute([...KILN, 'image', 'rm', manifest.id], bed.env);
        }
      }
    },
    run: async () => {
      await using _ = await openLayer(context, layer);
      return undefined;
    },
  };
}

export const imageRows: readonly Row[] = [
  {
    id: 'image-cold',
    title: 'cold image from local RPMs, digests, scriptlets, rpmdb, by the payloads alone',
    goal: { kind: 'ratio', max: 1.8 },
    sides: async (bed) => {
      const list = await listPackages(bed);
      const root = join(bed.scratch, 'root');
      return [
        coldImage(bed),
        {
          ...shell('bsdtar, two processes', `xargs -P2 -n1 bsdtar -C ${root} -xf < ${list}`),
          before: async () => {
            await rm(root, { recursive: true, force: true });
            // What a package's payload goes through: links of base-files, which rpm follows.
            await mkdir(join(root, 'usr/bin'), { recursive: true });
          },
        },
      ];
    },
    slow: true,
  },
  {
    id: 'image-dnf',
    title: 'cold image from local RPMs, digests, scriptlets, rpmdb',
    goal: { kind: 'ratio', max: 0.55 },
    sides: (bed) => [coldImage(bed), dnf(bed)],
    slow: true,
  },
  {
    id: 'image-stored',
    title: 'image whose packages are in the store',
    goal: { kind: 'ratio', max: 0.35 },
    sides: async (bed) => {
      const list = await listPackages(bed);
      const root = join(bed.scratch, 'rpmroot');
      return [
        {
          name: 'kiln image build',
          before: async () => {
            await execute([...KILN, 'image', 'rm', bed.image], bed.env).catch(() => undefined);
          },
          run: () => execute([...KILN, 'image', 'build', bed.recipe], bed.env),
        },
        {
          ...shell(
            'rpm --root -i',
            `xargs rpm --root ${root} -i --nosignature --define '__transaction_unshare %{nil}' < ${list}`,
          ),
          before: async () => {
            await rm(root, { recursive: true, force: true });
            await mkdir(root);
          },
        },
      ];
    },
    slow: true,
  },
  {
    id: 'image-extended',
    title: 'an image and five packages on top',
    goal: { kind: 'time', max: 300 },
    sides: async (bed) => [await extension(bed)],
    slow: true,
  },
];
