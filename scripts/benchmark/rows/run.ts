/** Running commands: how soon they begin and end, and how fast their output comes out. */
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Kiln } from '../../../src/kiln.ts';
import type { Connection } from '../../../src/libvirt/connection.ts';
import { Box, startDomain } from '../../../src/sandbox/box.ts';
import { podmanRun } from '../../podman.ts';
import { type Bed, KILN } from '../bed.ts';
import { execute, type Side, shell } from '../measure.ts';
import { kilnRun, node, parked, type Row, runInLibrary } from '../row.ts';

const bwrap = (bed: Bed): Side => ({
  name: 'bwrap --unshare-all',
  run: () =>
    execute(
      `bwrap --unshare-all --ro-bind ${bed.tree} / --proc /proc --dev /dev --tmpfs /tmp true`.split(
        ' ',
      ),
    ),
});

async function timed(bed: Bed): Promise<number> {
  const start = performance.now();
  await runInLibrary(bed, 'true');
  return performance.now() - start;
}

const RATE = 40;

/** Whoever uses the library has run a command before: V8 has seen the code some times. */
const WARM = 20;

async function eightAtATime(work: () => Promise<unknown>): Promise<undefined> {
  let left = RATE;
  const worker = async () => {
    while (left-- > 0) await work();
  };
  await Promise.all(Array.from({ length: 8 }, worker));
}

/** What libvirt does for every box: it is started, and destroyed. */
async function bareBox({ engine }: Kiln, connection: Connection): Promise<void> {
  const { paths, connect } = engine;
  const options = { network: 'private', label: { kind: 'auto' }, autodestroy: true } as const;
  const started = await startDomain(paths, connection, options);
  const box = await Box.own(paths, started, connect);
  await box.destroy();
}

/** Id of an image of busybox and empty files, a hundred in a folder. */
async function importedImage(bed: Bed, files: number): Promise<string> {
  const name = `files-${files}`;
  const tree = join(bed.scratch, name);
  await mkdir(join(tree, 'etc'), { recursive: true });
  await copyFile('/bin/busybox', join(tree, 'busybox'));
  await writeFile(join(tree, 'etc/passwd'), 'root:x:0:0::/:/busybox\n');
  for (let number = 0; number < files; number++) {
    const folder = join(tree, String(Math.floor(number / 100)));
    if (number % 100 === 0) await mkdir(folder);
    await writeFile(join(folder, String(number)), '');
  }
  await execute(['tar', '-C', tree, '-cf', `${tree}.tar`, '.']);
  await execute([...KILN, 'image', 'import', '--name', name, `${tree}.tar`], bed.env);
  const found = (await bed.kiln.images()).find(({ manifest }) => manifest.name === name);
  return found?.manifest.id ?? '';
}

export const runRows: readonly Row[] = [
  {
    id: 'library-true',
    title: 'library, parked box: `true`, request to result',
    goal: { kind: 'ratio', max: 0.5 },
    warmUps: WARM,
    sides: (bed) => [
      parked(bed, { name: 'kiln.run()', run: () => runInLibrary(bed, 'true') }),
      bwrap(bed),
    ],
  },
  {
    id: 'cli-start',
    title: '`kiln run -- true`, parked box, beyond an empty Node',
    goal: { kind: 'extra', max: 30 },
    sides: (bed) => [parked(bed, kilnRun(bed, '--', 'true')), node],
  },
  {
    id: 'cli-nspawn',
    title: '`kiln run -- true`, parked box',
    goal: { kind: 'ratio', max: 1 },
    sides: (bed) => [
      parked(bed, kilnRun(bed, '--', 'true')),
      {
        name: 'systemd-nspawn',
        run: () =>
          execute(
            `systemd-nspawn -q --register=no --keep-unit --volatile=overlay -D ${bed.tree} --private-users=no true`.split(
              ' ',
            ),
          ),
      },
    ],
  },
  {
    id: 'cli-podman',
    title: '`kiln run -- true`, parked box',
    goal: { kind: 'ratio', max: 1 },
    needs: 'podman',
    sides: (bed) => [
      parked(bed, kilnRun(bed, '--', 'true')),
      {
        name: 'podman run --network none',
        run: () => execute(podmanRun(join(bed.scratch, 'podman'), `${bed.tree}:O`, ['true'])),
      },
    ],
  },
  {
    // In a chroot that `mock --init` has made before.
    id: 'cli-mock',
    title: '`kiln run -- true`, parked box',
    goal: { kind: 'ratio', max: 0.1 },
    needs: 'mock',
    sides: (bed) => [
      parked(bed, kilnRun(bed, '--', 'true')),
      { name: 'mock --chroot', run: () => execute(['mock', '--quiet', '--chroot', 'true']) },
    ],
  },
  {
    id: 'everyday',
    title: 'the everyday job (`--bind --memory --resultdir`), parked box, by plain `true`',
    goal: { kind: 'ratio', max: 1.5 },
    sides: (bed) => [
      parked(
        bed,
        kilnRun(
          bed,
          ...['--bind', `${bed.scratch}:/work`, '--memory', '2G'],
          ...['--resultdir', join(bed.scratch, 'result'), '--', 'true'],
        ),
      ),
      parked(bed, kilnRun(bed, '--', 'true')),
    ],
  },
  {
    id: 'cli-cold',
    title: '`kiln run -- true`, nothing parked, beyond an empty Node and a libvirt create',
    goal: { kind: 'extra', max: 30 },
    sides: (bed) => [
      { ...kilnRun(bed, '--', 'true'), before: bed.parkNone },
      {
        name: 'node -e 0 and a box started',
        before: bed.parkNone,
        run: async () => {
          await execute([process.execPath, '-e', '0']);
          await bed.park(1);
          return undefined;
        },
      },
    ],
    slow: true,
  },
  {
    id: 'burst',
    title: 'eight claims at once, eight parked: the slowest, by a single one',
    goal: { kind: 'ratio', max: 5 },
    warmUps: WARM,
    sides: (bed) => [
      {
        name: 'the slowest of eight',
        before: () => bed.park(8),
        run: async () =>
          Math.max(...(await Promise.all(Array.from({ length: 8 }, () => timed(bed))))),
      },
      { name: 'one', before: () => bed.park(8), run: () => timed(bed) },
    ],
    slow: true,
  },
  {
    id: 'rate',
    title: `${RATE} runs, eight at a time, by libvirt’s own creates and destroys`,
    goal: { kind: 'ratio', max: 1 },
    sides: (bed) => [
      {
        name: 'kiln.run()',
        before: bed.parkNone,
        run: () => eightAtATime(() => runInLibrary(bed, 'true')),
      },
      {
        name: 'a box started and destroyed',
        before: bed.parkNone,
        run: async () => {
          const connection = await bed.kiln.engine.connect();
          return await eightAtATime(() => bareBox(bed.kiln, connection));
        },
      },
    ],
    slow: true,
  },
  {
    id: 'image-size',
    title: '`true` in a parked box on an image of 30,000 files, by one of a few',
    goal: { kind: 'ratio', max: 1.2 },
    sides: async (bed) => {
      const side = async (files: number) => {
        const image = await importedImage(bed, files);
        return parked(bed, {
          name: `${files} files`,
          run: () => runInLibrary({ ...bed, image }, '/busybox', 'true'),
        });
      };
      return [await side(30_000), await side(30)];
    },
  },
  {
    id: 'stdout',
    title: 'stdout, 1 GB, into a pipe',
    goal: { kind: 'ratio', max: 1 / 0.7 },
    sides: (bed) => [
      {
        ...shell(
          'kiln run',
          `${KILN.join(' ')} run -r ${bed.image} -- dd if=/dev/zero bs=1M count=1024 status=none | cat >/dev/null`,
          bed.env,
        ),
        before: () => bed.park(2),
      },
      shell('the bare pipe', 'dd if=/dev/zero bs=1M count=1024 status=none | cat >/dev/null'),
    ],
  },
];
