/** Snapshots, forks, rollbacks, and folders that a command writes to by layers. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { type Bed, KILN } from '../bed.ts';
import { execute, type Side, shell } from '../measure.ts';
import { kilnRun, parked, type Row } from '../row.ts';

const [KILN_PATH] = KILN;

/** A gigabyte in 10,000 files, below $1. */
const GIGABYTE =
  'mkdir -p "$1"; cd "$1"; head -c 1024000000 /dev/zero | split -a 4 -b 102400 - f; sync -f .';

const FORKS = 20;
const FOLDER_FILES = 50_000;

async function kept(bed: Bed, script: string, ...more: readonly string[]): Promise<string> {
  const words = ['run', '-r', bed.image, '--keep=1h', ...more, '--user', 'root'];
  const ran = await execa(KILN_PATH, [...words, '--', 'sh', '-c', script, 'sh', '/root/many'], {
    env: bed.env,
  });
  return /kept as (\w+)/.exec(ran.stderr)?.[1] ?? '';
}

async function kiln(bed: Bed, ...words: readonly string[]): Promise<void> {
  await execute([...KILN, ...words], bed.env);
}

/** A named snapshot with one file in it. */
async function small(bed: Bed): Promise<string> {
  const id = await kept(bed, 'echo one > /root/one');
  const name = `of-${id}`;
  await kiln(bed, 'snapshot', id, name);
  return name;
}

/** The same files on the same disk, copied by cp. */
async function copied(bed: Bed): Promise<Side> {
  const [from, to] = [join(bed.scratch, 'many'), join(bed.scratch, 'copy')];
  rmSync(from, { recursive: true, force: true });
  await execute(['sh', '-c', GIGABYTE, 'sh', from]);
  return {
    name: 'cp -a --reflink=never',
    before: async () => rmSync(to, { recursive: true, force: true }),
    run: () => execute(['cp', '-a', '--reflink=never', from, to]),
  };
}

async function endAll(bed: Bed): Promise<void> {
  await kiln(bed, 'kill', '--all');
  await kiln(bed, 'gc');
}

/** Of the folder that `make` has made: what reads all of it. */
function reading(bed: Bed, folder: string, how: string): Side {
  const script = 'find /src -type f -exec cat {} + | wc -c';
  const side = kilnRun(bed, '--bind', `${folder}:/src${how}`, '--', 'sh', '-c', script);
  return parked(bed, { ...side, name: `--bind DIR:/src${how}` });
}

export const snapshotRows: readonly Row[] = [
  {
    id: 'run-from',
    title: '`kiln run --from SNAPSHOT -- true`, by `kiln run -r IMAGE -- true`',
    goal: { kind: 'ratio', max: 1.15 },
    sides: async (bed) => {
      const name = await small(bed);
      const from: Side = {
        name: 'kiln run --from',
        run: () => execute([...KILN, 'run', '--from', name, '--', 'true'], bed.env),
      };
      return [parked(bed, from), parked(bed, kilnRun(bed, '--', 'true'))];
    },
  },
  {
    id: 'fork',
    title: `one sandbox forked into ${FORKS}, and a first command in each, by ${FORKS} runs at once`,
    goal: { kind: 'ratio', max: 1.1 },
    slow: true,
    sides: (bed) => {
      const { env } = bed;
      let id = '';
      const each = `xargs -P ${FORKS} -I {} ${KILN_PATH}`;
      return [
        {
          ...shell('kiln fork', ''),
          before: async () => {
            await endAll(bed);
            id = await kept(bed, 'echo one > /root/one');
            await bed.park(2);
          },
          run: () =>
            execute(
              ['sh', '-c', `${KILN_PATH} fork ${id} -n ${FORKS} | ${each} exec {} -- true`],
              env,
            ),
        },
        {
          ...shell('kiln run', `seq ${FORKS} | ${each} run -r ${bed.image} -- true`, env),
          before: async () => {
            await endAll(bed);
            await bed.park(2);
          },
        },
      ];
    },
  },
  {
    id: 'snapshot-gigabyte',
    title: 'a snapshot of 1 GB in 10,000 files that lie on the disk, by a copy of them',
    goal: { kind: 'ratio', max: 0.05 },
    slow: true,
    sides: async (bed) => {
      let id = '';
      return [
        {
          name: 'kiln snapshot',
          before: async () => {
            await endAll(bed);
            id = await kept(bed, GIGABYTE, '--on-disk');
          },
          run: () => kiln(bed, 'snapshot', id).then(() => undefined),
        },
        await copied(bed),
      ];
    },
  },
  {
    id: 'rollback-gigabyte',
    title: 'a rollback of 1 GB in 10,000 files, by a copy of them',
    goal: { kind: 'ratio', max: 0.05 },
    slow: true,
    sides: async (bed) => {
      let id = '';
      return [
        {
          name: 'kiln rollback',
          before: async () => {
            await endAll(bed);
            id = await kept(bed, 'echo one > /root/one', '--on-disk');
            await kiln(bed, 'snapshot', id);
            await kiln(bed, 'exec', id, '--', 'sh', '-c', GIGABYTE, 'sh', '/root/many');
          },
          run: () => kiln(bed, 'rollback', id).then(() => undefined),
        },
        await copied(bed),
      ];
    },
  },
  {
    id: 'diff-image',
    title: 'a diff of 100 changed files, by what rsync compares of two trees of the image',
    goal: { kind: 'ratio', max: 0.2 },
    needs: 'rsync',
    sides: async (bed) => {
      const change = 'find /usr/share -type f | head -n 100 | while read f; do echo x >>"$f"; done';
      const id = await kept(bed, change);
      const other = join(bed.scratch, 'changed');
      await execute(['cp', '-a', bed.tree, other]);
      await execute(['sh', '-c', change.replace('/usr/share', `${other}/usr/share`)]);
      return [
        {
          name: 'kiln diff',
          run: () => kiln(bed, 'diff', id).then(() => undefined),
        },
        shell('rsync -an', `rsync -an --delete ${bed.tree}/ ${other}/`),
      ];
    },
  },
  {
    id: 'cow-folder',
    title: `a command that reads ${FOLDER_FILES} files of a folder, bound with cow, by the same bind`,
    goal: { kind: 'ratio', max: 1.1 },
    slow: true,
    sides: (bed) => {
      const folder = join(bed.scratch, 'folder');
      for (let at = 0; at < FOLDER_FILES; at++) {
        const inner = join(folder, `d${at % 500}`);
        if (at < 500) mkdirSync(inner, { recursive: true });
        writeFileSync(join(inner, `f${at}`), 'x'.repeat(200));
      }
      return [reading(bed, folder, ':cow'), reading(bed, folder, '')];
    },
  },
];
