/** What comes out of a sandbox: artifacts and packages. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Bed, KILN } from '../bed.ts';
import { execute, type Side } from '../measure.ts';
import { phase, type Row } from '../row.ts';

/** What a command left in the sandbox's /tmp/out, collected by kiln and copied by cp -a: on one tmpfs. */
function artifacts(bed: Bed, id: string, make: string, memory: number): readonly [Side, Side] {
  const source = join(bed.scratch, `${id}-source`);
  const out = join(bed.scratch, `${id}-out`);
  /**
   * Each copy finds what was just made, and memory that was just used: a virtual machine may give free memory
   * back to its host after two seconds, and whoever uses it next waits for that.
   */
  const script = (to: string, used: string) =>
    `mkdir ${to} && cd ${to} && ${make} && head -c ${memory} /dev/zero > ${used} && rm ${used}`;
  const clean = async () => {
    for (const path of [source, out]) await rm(path, { recursive: true, force: true });
  };
  return [
    {
      name: 'kiln, with sha256 of each',
      before: clean,
      run: async () => {
        const args = ['--workdir', '/tmp', '--artifact', 'out', '--resultdir', out];
        const command = ['sh', '-c', script('out', '/tmp/used')];
        await execute([...KILN, 'run', '-r', bed.image, ...args, '--', ...command], bed.env);
        return await phase(out, 'artifacts');
      },
    },
    {
      name: 'cp -a',
      before: async () => {
        await clean();
        await execute(['sh', '-c', script(source, join(bed.scratch, 'used'))]);
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
      artifacts(bed, 'large', 'head -c 1073741824 /dev/zero | tr "\\0" x > big', 1.5 * GIB),
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
