/** What comes out of a box: artifacts and packages. */
import { mkdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type Bed, KILN } from '../bed.ts';
import { execute, type Side } from '../measure.ts';
import { phase, type Row } from '../row.ts';

/** What a command left in the box's /tmp/out, collected by kiln and copied by cp -a: on one tmpfs. */
function artifacts(bed: Bed, id: string, make: string, memory: number): readonly [Side, Side] {
  const source = join(bed.scratch, `${id}-source`);
  const out = join(bed.scratch, `${id}-out`);
  /**
   * A virtual machine may give free memory back to its host after two seconds, and whoever uses it next waits for that:
   * each run finds memory that was just used.
   */
  const clean = async () => {
    await rm(out, { recursive: true, force: true });
    const used = join(bed.scratch, 'used');
    await execute(['sh', '-c', `head -c ${memory} /dev/zero > ${used}`]);
    await rm(used);
  };
  return [
    {
      name: 'kiln, with sha256 of each',
      before: clean,
      run: async () => {
        const args = ['--workdir', '/tmp', '--artifact', 'out', '--resultdir', out];
        const script = `mkdir out && cd out && ${make}`;
        await execute(
          [...KILN, 'run', '-r', bed.image, ...args, '--', 'sh', '-c', script],
          bed.env,
        );
        return await phase(out, 'artifacts');
      },
    },
    {
      name: 'cp -a',
      before: async () => {
        await clean();
        if (await stat(source).catch(() => undefined)) return;
        await mkdir(source);
        await execute(['sh', '-c', `cd ${source} && ${make}`]);
      },
      run: () => execute(['cp', '-a', source, out]),
    },
  ];
}

const GIB = 2 ** 30;

const MAKE_SMALL =
  'for i in $(seq 100); do mkdir $i; for j in $(seq 100); do echo $i/$j > $i/$j; done; done';

export const resultRows: readonly Row[] = [
  {
    id: 'artifacts-large',
    title: 'artifacts, 1 GB in one file',
    goal: { kind: 'ratio', max: 1 / 0.7 },
    sides: (bed) =>
      artifacts(bed, 'large', 'head -c 1073741824 /dev/zero | tr "\\0" x > big', 3 * GIB),
    slow: true,
  },
  {
    id: 'artifacts-small',
    title: 'artifacts, 10,000 small files',
    goal: { kind: 'ratio', max: 1 / 0.7 },
    sides: (bed) => artifacts(bed, 'small', MAKE_SMALL, GIB / 4),
    slow: true,
  },
];
