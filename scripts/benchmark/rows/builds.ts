/** Builds held against rpmbuild alone in the same image. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Bed, KILN, top } from '../bed.ts';
import { execute, type Side } from '../measure.ts';
import { phase, type Row } from '../row.ts';

/** Packages that are put on top of the image where some are to be added, each of some files. */
const ADDED = ['added-a', 'added-b', 'added-c', 'added-d'];

/** What is required is known, and the image that has it is there. */
async function knownBuild(bed: Bed): Promise<readonly [Side, Side]> {
  const srpm = await sourcePackage(bed);
  return [await kilnBuild(bed, srpm, []), rpmbuild(bed, srpm)];
}

/** The image that has what is required is to be made first, every time. */
async function layeredBuild(bed: Bed): Promise<readonly [Side, Side]> {
  const srpm = await sourcePackage(bed);
  const repository = await addedPackages(bed);
  const options = ADDED.flatMap((name) => ['--additional-package', name]);
  const side = await kilnBuild(bed, srpm, ['--addrepo', repository, ...options]);
  return [
    {
      ...side,
      before: async () => {
        const text = await readFile(join(bed.scratch, 'results/result.json'), 'utf8');
        const { image } = JSON.parse(text) as { image: { id: string } };
        if (image.id === bed.image) throw new TypeError('nothing was added');
        await execute([...KILN, 'image', 'rm', image.id], bed.env);
        // One for the scriptlets of the new image, one for the build.
        await bed.park(2);
      },
    },
    rpmbuild(bed, srpm),
  ];
}

/** Has been run once: whatever is kept from one build to the next is there. */
async function kilnBuild(bed: Bed, srpm: string, more: readonly string[]): Promise<Side> {
  const where = ['--resultdir', join(bed.scratch, 'results')];
  const run = () =>
    execute([...KILN, 'build', '-q', '-r', bed.recipe, ...where, ...more, srpm], bed.env);
  await run();
  return { name: 'kiln build', before: () => bed.park(2), run };
}

/** The source package lies in the same place; what is timed is the command in the sandbox. */
function rpmbuild(bed: Bed, srpm: string): Side {
  const results = join(bed.scratch, 'floor');
  const options = ['--copy-in', `${srpm}:/tmp/it.src.rpm`, '--resultdir', results];
  const argv = ['--', 'sh', '-c', 'rpmbuild --rebuild /tmp/it.src.rpm'];
  return {
    name: 'rpmbuild --rebuild in the same image',
    before: () => bed.park(2),
    run: async () => {
      await execute([...KILN, 'run', '-r', bed.image, ...options, ...argv], bed.env);
      return await phase(results, 'command');
    },
  };
}

async function sourcePackage(bed: Bed): Promise<string> {
  const sources = join(top, 'recipes/builds/noarch-rpm');
  const made = join(bed.scratch, 'made');
  const spec = ['--spec', join(sources, 'greet.spec'), '--sources', sources];
  await execute([...KILN, 'build', '-q', '-r', bed.recipe, ...spec, '--resultdir', made], bed.env);
  return join(made, (await readdir(made)).find((name) => name.endsWith('.src.rpm')) ?? '');
}

/** A repository of {@link ADDED}. */
async function addedPackages(bed: Bed): Promise<string> {
  const directory = join(bed.scratch, 'added');
  await mkdir(directory, { recursive: true });
  for (const name of ADDED) {
    const spec = join(bed.scratch, `${name}.spec`);
    await writeFile(spec, addedSpec(name));
    const options = [
      '--define',
      `_topdir ${bed.scratch}/rpmbuild`,
      '--define',
      `_rpmdir ${directory}`,
    ];
    await execute(['rpmbuild', '-bb', '--quiet', ...options, spec]);
  }
  await execute(['createrepo_c', '--quiet', directory]);
  return directory;
}

const addedSpec = (name: string) => `
Name: ${name}
Version: 1
Release: 1
Summary: Some files
License: MIT
BuildArch: noarch
%description
Some files.
%install
mkdir -p %{buildroot}/usr/share/${name}
for i in $(seq 100); do seq $i 1000 > %{buildroot}/usr/share/${name}/$i; done
%files
/usr/share/${name}
`;

export const buildRows: readonly Row[] = [
  {
    id: 'build',
    title: 'a source package built, what it requires known, beyond rpmbuild',
    goal: { kind: 'extra', max: 100 },
    sides: knownBuild,
  },
  {
    id: 'build-layer',
    title: 'a source package built, four packages added for it, beyond rpmbuild',
    goal: { kind: 'extra', max: 1000 },
    sides: layeredBuild,
  },
];
