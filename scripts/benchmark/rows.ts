/** The rows of the table in docs/performance.md: what kiln does, what it is held against, the goal. */
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { RunRequest } from '../../src/run/request.ts';
import { type Bed, KILN, top } from './bed.ts';
import { execute, type Side, shell } from './measure.ts';

/** `ratio`: the first side's median by the second's. `extra`: their difference, milliseconds. */
export interface Goal {
  readonly kind: 'ratio' | 'extra';
  readonly max: number;
}

export interface Row {
  readonly id: string;
  readonly title: string;
  readonly goal: Goal;
  /** kiln first, then what it is held against. */
  readonly sides: (bed: Bed) => readonly [Side, Side] | Promise<readonly [Side, Side]>;
  /** Seconds a run: such rows are run less often. */
  readonly slow?: boolean;
}

function request(bed: Bed, argv: readonly string[]): RunRequest {
  return {
    image: bed.image,
    argv,
    env: {},
    capAdd: [],
    seccomp: 'default',
    network: 'private',
    binds: [],
    tmpfs: [],
    limits: {},
    time: {},
    copyIn: [],
    artifacts: [],
    caller: { uid: 0, gid: 0 },
  } as RunRequest;
}

/** Runs in this process; the time until the result is there, the box's removal included. */
async function runInLibrary(bed: Bed, ...argv: readonly string[]): Promise<undefined> {
  const report = await bed.kiln.run(request(bed, argv), {
    started: (command) => {
      command.stdin.end();
      command.stdout.resume();
      command.stderr.resume();
    },
    warning: () => undefined,
  });
  if (report.end.exitCode !== 0) throw new Error(`exit code ${report.end.exitCode}`);
}

const kilnRun = (bed: Bed, ...args: readonly string[]): Side => ({
  name: 'kiln run',
  run: () => execute([...KILN, 'run', '-r', bed.image, ...args], bed.env),
});

const parked = (bed: Bed, side: Side): Side => ({ ...side, before: () => bed.park(2) });

const node: Side = { name: 'node -e 0', run: () => execute([process.execPath, '-e', '0']) };

const bwrap = (bed: Bed): Side => ({
  name: 'bwrap --unshare-all',
  run: () =>
    execute(
      `bwrap --unshare-all --ro-bind ${bed.tree} / --proc /proc --dev /dev --tmpfs /tmp true`.split(
        ' ',
      ),
    ),
});

/** Milliseconds that a phase took, from result.json. */
async function phase(directory: string, name: string): Promise<number> {
  const result = JSON.parse(await readFile(join(directory, 'result.json'), 'utf8')) as {
    phases: Array<{ name: string; durationMs: number }>;
  };
  return result.phases.find((one) => one.name === name)?.durationMs ?? Number.NaN;
}

/** What a command left in the box's /tmp/out, collected by kiln and copied by cp -a: on one tmpfs. */
function artifacts(bed: Bed, make: string): readonly [Side, Side] {
  const source = join(bed.scratch, 'source');
  const out = join(bed.scratch, 'out');
  const clean = () => rm(out, { recursive: true, force: true });
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

/** A build against rpmbuild alone in the same image: the source package lies in the same place. */
async function build(bed: Bed): Promise<readonly [Side, Side]> {
  const sources = join(top, 'recipes/builds/noarch-rpm');
  const made = join(bed.scratch, 'made');
  const spec = ['--spec', join(sources, 'greet.spec'), '--sources', sources];
  await execute([...KILN, 'build', '-q', '-r', bed.recipe, ...spec, '--resultdir', made], bed.env);
  const srpm = join(made, (await readdir(made)).find((name) => name.endsWith('.src.rpm')) ?? '');
  const results = join(bed.scratch, 'results');
  const script = 'rpmbuild --rebuild /tmp/it.src.rpm';
  return [
    parked(bed, {
      name: 'kiln build',
      run: () =>
        execute([...KILN, 'build', '-q', '-r', bed.recipe, '--resultdir', results, srpm], bed.env),
    }),
    parked(bed, {
      name: 'rpmbuild --rebuild in the same image',
      run: async () => {
        const options = ['--copy-in', `${srpm}:/tmp/it.src.rpm`, '--resultdir', results];
        const argv = ['--', 'sh', '-c', script];
        await execute([...KILN, 'run', '-r', bed.image, ...options, ...argv], bed.env);
        return await phase(results, 'command');
      },
    }),
  ];
}

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

const MAKE_SMALL =
  'for i in $(seq 100); do mkdir $i; for j in $(seq 100); do echo $i/$j > $i/$j; done; done';

export const rows: readonly Row[] = [
  {
    id: 'library-true',
    title: 'library, parked box: `true`, request to result',
    goal: { kind: 'ratio', max: 0.5 },
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
    id: 'burst',
    title: 'eight claims at once, eight parked, by eight times one',
    goal: { kind: 'ratio', max: 1 },
    sides: (bed) => [
      {
        name: 'at once',
        before: () => bed.park(8),
        run: async () => {
          await Promise.all(Array.from({ length: 8 }, () => runInLibrary(bed, 'true')));
          return undefined;
        },
      },
      {
        name: 'one by one',
        before: () => bed.park(8),
        run: async () => {
          for (let i = 0; i < 8; i++) await runInLibrary(bed, 'true');
          return undefined;
        },
      },
    ],
    slow: true,
  },
  {
    id: 'build',
    title: 'a source package built, what it requires known, beyond rpmbuild',
    goal: { kind: 'extra', max: 300 },
    sides: build,
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
  {
    id: 'artifacts-large',
    title: 'artifacts, 1 GB in one file',
    goal: { kind: 'ratio', max: 1 / 0.7 },
    sides: (bed) => artifacts(bed, 'head -c 1073741824 /dev/zero | tr "\\0" x > big'),
    slow: true,
  },
  {
    id: 'artifacts-small',
    title: 'artifacts, 10,000 small files',
    goal: { kind: 'ratio', max: 1 / 0.7 },
    sides: (bed) => artifacts(bed, MAKE_SMALL),
    slow: true,
  },
  {
    id: 'headers',
    title: 'headers of 1,000 packages',
    goal: { kind: 'ratio', max: 0.2 },
    sides: async (bed) => {
      const directory = await thousandPackages(bed);
      return [
        shell('kiln rpm query', `${KILN.join(' ')} rpm query ${directory}/*.rpm`, bed.env),
        shell('rpm -qp', `rpm -qp --nosignature ${directory}/*.rpm`),
      ];
    },
    slow: true,
  },
  {
    id: 'image-cold',
    title: 'cold image from local RPMs, digests, scriptlets, rpmdb',
    goal: { kind: 'ratio', max: 1.8 },
    sides: async (bed) => {
      const list = await listPackages(bed);
      const root = join(bed.scratch, 'root');
      return [
        {
          name: 'kiln image build',
          before: async () => {
            await execute([...KILN, 'image', 'rm', bed.image], bed.env).catch(() => undefined);
            await rm(bed.kiln.paths.packages, { recursive: true, force: true });
            await rm(bed.kiln.paths.trash, { recursive: true, force: true });
          },
          run: () => execute([...KILN, 'image', 'build', bed.recipe], bed.env),
        },
        {
          ...shell('bsdtar, two processes', `xargs -P2 -n1 bsdtar -C ${root} -xf < ${list}`),
          before: async () => {
            await rm(root, { recursive: true, force: true });
            await mkdir(root);
            // What a package's payload goes through: links of base-files, which rpm follows.
            await mkdir(join(root, 'usr/bin'), { recursive: true });
          },
        },
      ];
    },
    slow: true,
  },
  {
    id: 'image-stored',
    title: 'image whose packages are in the store',
    goal: { kind: 'ratio', max: 0.25 },
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
];
