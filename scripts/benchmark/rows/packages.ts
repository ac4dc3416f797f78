/** Reading and unpacking package files. */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Bed, KILN } from '../bed.ts';
import { largePackage } from '../large-package.ts';
import { execute, shell } from '../measure.ts';
import type { Row } from '../row.ts';

async function thousandPackages(bed: Bed): Promise<string> {
  const directory = join(bed.scratch, 'thousand');
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory);
  const names = (await readdir(bed.rpms)).filter((name) => name.endsWith('.rpm'));
  for (let copy = 0, made = 0; made < 1000; copy++) {
    const some = names.slice(0, 1000 - made);
    for (const name of some) {
      await execute(['cp', join(bed.rpms, name), join(directory, `${copy}-${name}`)]);
    }
    made += some.length;
  }
  return directory;
}

export const packageRows: readonly Row[] = [
  {
    id: 'headers',
    title: 'headers of 1,000 packages',
    goal: { kind: 'ratio', max: 1.3 },
    sides: async (bed) => {
      const directory = await thousandPackages(bed);
      return [
        shell('kiln rpm query', `${KILN.join(' ')} rpm query ${directory}/*.rpm`, bed.env),
        shell('rpm -qp', `rpm -qp ${directory}/*.rpm`),
      ];
    },
    slow: true,
  },
  {
    id: 'unpack',
    title: 'a package of 2 GB in zstd unpacked, on one core',
    goal: { kind: 'ratio', max: 1 / 0.8 },
    sides: async (bed) => {
      const file = await largePackage(bed);
      const directory = join(bed.scratch, 'unpacked');
      const empty = async () => {
        await rm(directory, { recursive: true, force: true });
        await mkdir(directory);
      };
      const kiln = `${KILN.join(' ')} rpm unpack -C ${directory} ${file}`;
      return [
        { ...shell('kiln rpm unpack', `taskset -c 0 ${kiln}`, bed.env), before: empty },
        { ...shell('bsdtar', `taskset -c 0 bsdtar -C ${directory} -xf ${file}`), before: empty },
      ];
    },
    slow: true,
  },
];
