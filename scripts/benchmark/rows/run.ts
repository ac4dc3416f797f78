/** Running commands: how soon they begin and end, and how fast their output comes out. */
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Connection } from '../../../src/host/libvirt/connection.ts';
import { SandboxDomain } from '../../../src/sandbox/domain/sandbox-domain.ts';
import { startDomain } from '../../../src/sandbox/domain/start-domain.ts';
import type { Kiln } from '../../../test/support/kiln.ts';
import { type Bed, KILN, USER } from '../bed.ts';
import { execute, type Figures, figures, type Side, shell } from '../measure.ts';
import { podmanRun } from '../podman.ts';
import { kilnRun, parked, type Row } from '../row.ts';

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
  await execute([...KILN, 'run', '-r', bed.image, '--', 'true'], bed.env);
  return performance.now() - start;
}

/** As {@link kilnRun} by somebody; both ways take what setpriv takes. */
const runAs = (bed: Bed, id: number): Side => ({
  name: id === 0 ? 'root' : 'a user',
  run: () =>
    execute(
      [
        ...['setpriv', `--reuid=${id}`, `--regid=${id}`, '--clear-groups', '--'],
        ...[...KILN, 'run', '-r', bed.image, '--', 'true'],
      ],
      { PATH: process.env.PATH, KILN_STATE: bed.env.KILN_STATE },
    ),
});

const RATE = 40;

/** Whoever uses a daemon has run a command before: V8 has seen the code some times. */
const WARM = 20;

/** Runs for the tail, and milliseconds from the start of one to the start of the next. */
const TAIL = { runs: 200, quick: 20, every: 500 } as const;

/** The tail of runs that come regularly, by the middle. */
async function tail(bed: Bed, quick: boolean): Promise<readonly Figures[]> {
  const times: number[] = [];
  for (let number = 0; number < (quick ? TAIL.quick : TAIL.runs); number++) {
    const time = await timed(bed);
    times.push(time);
    await sleep(Math.max(0, TAIL.every - time));
  }
  const all = figures('p50', times);
  return [{ ...all, name: 'p99', median: all.p99 }, all];
}

async function eightAtATime(work: () => Promise<unknown>): Promise<undefined> {
  let left = RATE;
  const worker = async () => {
    while (left-- > 0) await work();
  };
  await Promise.all(Array.from({ length: 8 }, worker));
}

/** What libvirt does for every sandbox: it is started, and destroyed. Returns how long the start took, milliseconds. */
async function bareSandbox({ engine }: Kiln, connection: Connection): Promise<number> {
  const { paths, connect } = engine;
  const options = { network: 'private', label: { kind: 'auto' } } as const;
  const start = performance.now();
  const started = await startDomain(paths, connection, options);
  await started.domain;
  const time = performance.now() - start;
  const sandbox = await SandboxDomain.create(paths, started, connect);
  await sandbox.destroy();
  return time;
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

const run = (bed: Bed) => parked(bed, kilnRun(bed, '--', 'true'));

export const runRows: readonly Row[] = [
  {
    id: 'run-true',
    title: '`kiln run -- true`',
    goal: { kind: 'ratio', max: 2 },
    warmUps: WARM,
    sides: (bed) => [run(bed), bwrap(bed)],
  },
  {
    id: 'run-podman',
    title: '`kiln run -- true`',
    goal: { kind: 'ratio', max: 0.2 },
    needs: 'podman',
    sides: (bed) => [
      run(bed),
      {
        name: 'podman run --network none',
        run: () => execute(podmanRun(join(bed.scratch, 'podman'), `${bed.tree}:O`, ['true'])),
      },
    ],
  },
  {
    id: 'run-nspawn',
    title: '`kiln run -- true`',
    goal: { kind: 'ratio', max: 0.5 },
    sides: (bed) => [
      run(bed),
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
    // In a chroot that `mock --init` has made before.
    id: 'run-mock',
    title: '`kiln run -- true`',
    goal: { kind: 'ratio', max: 0.1 },
    needs: 'mock',
    sides: (bed) => [
      run(bed),
      { name: 'mock --chroot', run: () => execute(['mock', '--quiet', '--chroot', 'true']) },
    ],
  },
  {
    id: 'run-user',
    title: '`kiln run -- true` of a user in the group kiln, by root’s',
    goal: { kind: 'ratio', max: 1.1 },
    sides: (bed) => [parked(bed, runAs(bed, USER)), parked(bed, runAs(bed, 0))],
  },
  {
    id: 'run-tail',
    title: `\`kiln run -- true\`, ${TAIL.runs} runs, two a second: the 99th percentile by the median`,
    goal: { kind: 'ratio', max: 2.5 },
    measure: tail,
  },
  {
    id: 'everyday',
    title: 'the everyday job (`--bind --memory --resultdir --artifact`), by plain `true`',
    goal: { kind: 'ratio', max: 1.5 },
    sides: (bed) => {
      const write = ['sh', '-c', 'echo done > log'];
      const results = ['--resultdir', join(bed.scratch, 'result'), '--artifact', 'log'];
      const limits = ['--bind', `${bed.scratch}:/work`, '--memory', '2G'];
      return [parked(bed, kilnRun(bed, ...limits, ...results, '--', ...write)), run(bed)];
    },
  },
  {
    id: 'run-cold',
    title: '`kiln run -- true`, nothing parked, by what libvirt takes to start a domain',
    goal: { kind: 'ratio', max: 1.3 },
    warmUps: WARM,
    sides: (bed) => [
      { ...kilnRun(bed, '--', 'true'), before: bed.parkNone },
      {
        name: 'a domain started',
        before: bed.parkNone,
        run: async () => await bareSandbox(bed.kiln, await bed.kiln.engine.connect()),
      },
    ],
    slow: true,
  },
  {
    id: 'burst',
    title: 'eight `kiln run -- true` at once, eight parked: the slowest, by a single one',
    goal: { kind: 'ratio', max: 4 },
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
        name: 'kiln run',
        before: bed.parkNone,
        run: () => eightAtATime(() => timed(bed)),
      },
      {
        name: 'a domain started and destroyed',
        before: bed.parkNone,
        run: async () => {
          const connection = await bed.kiln.engine.connect();
          return await eightAtATime(() => bareSandbox(bed.kiln, connection));
        },
      },
    ],
    slow: true,
  },
  {
    id: 'image-size',
    title: '`kiln run -- true` on an image of 30,000 files, by one of a few',
    goal: { kind: 'ratio', max: 1.2 },
    sides: async (bed) => {
      const side = async (files: number) => {
        const image = await importedImage(bed, files);
        const side = kilnRun({ ...bed, image }, '--', '/busybox', 'true');
        return parked(bed, { ...side, name: `${files} files` });
      };
      return [await side(30_000), await side(30)];
    },
  },
  {
    id: 'stdout',
    title: 'stdout, 1 GB, into a pipe',
    goal: { kind: 'ratio', max: 1.2 },
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
