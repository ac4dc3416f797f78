/** How each door is gone through. One visit may lead through several doors. */
import { once } from 'node:events';
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { connect } from '../../src/index.ts';
import { type SpecParts, sourcePackage } from '../build/core/build-state.ts';
import { withEmulator, writeForeignProgram } from '../support/emulator.ts';
import { type Measured, measuredIn } from './measured.ts';
import type { Door } from './table.ts';
import type { World } from './world.ts';

export interface Visit {
  readonly doors: readonly Door[];
  /** @returns all that was written there */
  readonly go: (world: World) => Promise<string>;
}

const HOST = ['--network', 'host', '--allow-host-network'];

/** Words for those after `--`. */
const run = (door: Door, ...options: readonly string[]): Visit => ({
  doors: [door],
  go: (world) =>
    world.call('kiln', [
      'run',
      '-r',
      world.recipe,
      ...world.options,
      ...options,
      '--',
      ...world.measure(door),
    ]),
});

const isMachine = (world: World) => world.isolation === 'vm';

let counter = 0;

/** A new folder of the host that anybody may write to. */
async function folder(world: World): Promise<string> {
  const path = join(world.directory, `folder-${counter++}`);
  await mkdir(path);
  return path;
}

async function open(world: World): Promise<string> {
  const path = await folder(world);
  await chmod(path, 0o777);
  return path;
}

/** The files of a folder that are there, one after the other. */
async function contents(path: string, names?: readonly string[]): Promise<string> {
  const all = names ?? (await readdir(path));
  const files = await Promise.all(all.map((name) => readFile(join(path, name), 'latin1')));
  return files.join('\n');
}

/** As the sandbox's root: what may be done to a bind is not what may be done to the sandbox's own files. */
const bound = (door: Door, how: 'rw' | 'cow'): Visit => ({
  doors: [door],
  go: async (world) => {
    const bind = ['--user', 'root', '--bind', `${await open(world)}:/b:${how},Z`];
    const words = ['run', '-r', world.recipe, ...world.options, ...bind, '--'];
    return await world.call('kiln', [...words, ...world.measure(door, '/b')]);
  },
});

const SECTIONS = ['prep', 'buildrequires', 'build', 'install', 'check'] as const;

/** A spec with the probe in each of these sections. */
function probing(
  world: World,
  door: (section: string) => string,
  more: Partial<SpecParts> = {},
): SpecParts {
  // rpmbuild reads requirements on the standard output of %generate_buildrequires.
  const line = (section: string) =>
    `${world.line(door(section))}${section === 'buildrequires' ? ' >&2' : ''}`;
  const sections = SECTIONS.map((section) => [section, line(section)]);
  return { name: `probing-${counter++}`, ...Object.fromEntries(sections), ...more };
}

function build(network: boolean): Visit {
  const where = network ? ' with a network' : '';
  const name = (section: string) => `build: %${section}${where}`;
  const options = network ? ['--enable-network', '--network', 'host'] : [];
  return {
    doors: [...SECTIONS, 'post'].map(name) as Door[],
    go: async (world) => {
      const sections = `%post\n${world.line(name('post'))}`;
      const source = await sourcePackage(
        await folder(world),
        probing(world, name, { sections, preamble: 'Requires(post): kiln-probe' }),
      );
      const out = join(world.directory, `out-${counter++}`);
      const args = [
        'build',
        '-r',
        world.recipe,
        '--postinstall',
        '--resultdir',
        out,
        ...world.options,
      ];
      await world.call('kiln', [...args, ...options, source]);
      return await contents(out, ['build.log', 'root.log']);
    },
  };
}

function recipe(kind: 'YAML' | 'TypeScript', profile: 'default' | 'nested' = 'default'): Visit {
  const what = profile === 'nested' ? `${kind} recipe, nested` : `${kind} recipe`;
  const step = (network: string) => `${what}: step ${network}` as Door;
  const names = ['without a network', 'with its network'].map(step) as [Door, Door];
  return {
    doors: names,
    go: async (world) => {
      const directory = await folder(world);
      // The host's network is no machine's: there a step has a way to a host.
      const network = isMachine(world) ? { egress: ['127.0.0.1'] } : { network: 'host' };
      const sandbox = { ...network, profile, pids: 200, memory: '1G' };
      const [off, on] = names.map((door) => world.line(door)) as [string, string];
      const steps = [{ run: off }, { run: on, network: true }];
      const yaml = join(directory, 'it.yaml');
      await writeFile(yaml, JSON.stringify({ image: world.recipe, sandbox, steps }));
      const script = join(directory, 'it.ts');
      const call = (door: Door) => `await $\`\${${JSON.stringify(world.measure(door))}}\``;
      await writeFile(
        script,
        `import { defineRecipe } from 'kiln';
import { $ } from 'zx';
export default defineRecipe({ image: ${JSON.stringify(world.recipe)}, sandbox: ${JSON.stringify(sandbox)},
  steps: [async function off() { ${call(names[0])} },
    { name: 'on', network: true, run: async () => { ${call(names[1])} } }] });`,
      );
      const out = join(directory, 'out');
      const file = kind === 'YAML' ? yaml : script;
      const words = ['build', file, '--allow-host', '--resultdir', out, ...world.ground];
      return await world.call('kiln', words);
    },
  };
}

/** kiln-mock with the image’s recipe, each visit in a root of its own. */
async function mock(world: World, args: readonly string[], input?: string): Promise<string> {
  const ground = isMachine(world) ? ['--isolation=vm'] : [];
  const root = ['-r', world.recipe, `--uniqueext=${counter++}`, ...ground];
  return await world.call('kiln-mock', [...root, ...args], {
    ...(input === undefined ? {} : { input }),
    ...(isMachine(world) ? { env: { KILN_ALLOW_MISSING: 'kvm' } } : {}),
  });
}

function mocked(network: boolean): Visit[] {
  const more = network ? ['--enable-network'] : [];
  const where = network ? ' with a network' : '';
  const door = (name: string) => `kiln-mock ${name}${where}` as Door;
  return [
    {
      doors: [door('--rebuild: %build')],
      go: async (world) => {
        const build_ = world.line(door('--rebuild: %build'));
        const source = await sourcePackage(await folder(world), {
          ...{ name: `mocked-${counter++}`, build: build_ },
        });
        const out = join(world.directory, `out-${counter++}`);
        await mock(world, [...more, '--rebuild', source, '--resultdir', out]);
        return await contents(out, ['build.log']);
      },
    },
    {
      doors: [door('--chroot')],
      go: (world) => mock(world, [...more, '--chroot', world.line(door('--chroot'))]),
    },
    {
      doors: [door('--chroot --unpriv')],
      go: (world) => {
        const line = world.line(door('--chroot --unpriv'));
        return mock(world, [...more, '--unpriv', '--chroot', line]);
      },
    },
    {
      doors: [door('--shell')],
      go: (world) => mock(world, [...more, '--shell'], `${world.line(door('--shell'))}\n`),
    },
  ];
}

/** A sandbox that a command with these options has left, entered again. */
function kept(
  door: Door,
  options: (world: World) => Promise<readonly string[]>,
  where?: string,
): Visit {
  return {
    doors: [door],
    go: async (world) => {
      const args = ['run', '-r', world.recipe, ...world.options, ...(await options(world))];
      const said = await world.call('kiln', [...args, '--keep=5m', '--json', '--', 'true']);
      const { id } = JSON.parse(said.split('\n').at(-1) ?? '');
      try {
        return await world.call('kiln', ['shell', id], { input: `${world.line(door, where)}\n` });
      } finally {
        await world.call('kiln', ['kill', id]);
      }
    },
  };
}

/** Waits until a service's health has been checked. */
async function healthKnown(world: World, name: string): Promise<void> {
  for (;;) {
    const [listed] = JSON.parse(await world.call('kiln', ['service', 'list', '--json', name]));
    if (listed.status.health.state !== 'unknown') return;
    await sleep(100);
  }
}

/** What an image needs for a systemd to boot in it. */
const BOOTING = 'base-files, base-passwd, dash, coreutils, grep, util-linux, systemd, dbus';

const SERVICE = ['service unit', 'service execute', 'service health'] as const;

export const VISITS: readonly Visit[] = [
  run('run'),
  {
    doors: ['run without the daemon'],
    go: (world) =>
      world.call(
        'kiln',
        [
          'run',
          '-r',
          world.recipe,
          ...world.options,
          '--',
          ...world.measure('run without the daemon'),
        ],
        { env: { KILN_FROM_SOURCE: '1' } },
      ),
  },
  run('run --user root', '--user', 'root'),
  run('run --network host', ...HOST),
  run('run --network host --user root', ...HOST, '--user', 'root'),
  run('run --profile nested', '--profile', 'nested'),
  run('run --profile nested --network host', '--profile', 'nested', ...HOST),
  run('run --user root --cap-add SYS_ADMIN', '--user', 'root', '--cap-add', 'SYS_ADMIN'),
  run('run --cap-add NET_RAW', '--cap-add', 'NET_RAW'),
  run('run --seccomp build', '--seccomp', 'build'),
  bound('run --bind, writable', 'rw'),
  bound('run --bind, cow', 'cow'),
  run('run --on-disk', '--on-disk'),
  {
    // A snapshot on the disk and a rollback each give the sandbox another root between its commands. A machine has none
    // on the disk, and no fork of a machine is a container.
    doors: ['run --from', 'exec after a snapshot', 'exec after a rollback', 'exec in a fork'],
    go: async (world) => {
      const kiln = (...words: readonly string[]) => world.call('kiln', words);
      const onDisk = isMachine(world) ? [] : ['--on-disk'];
      const options = [...world.options, ...onDisk, '--keep=5m', '--json'];
      const said = await kiln('run', '-r', world.recipe, ...options, '--', 'true');
      const { id } = JSON.parse(said.split('\n').at(-1) ?? '');
      const enter = (door: Door, which: string) =>
        kiln('exec', which, '--', ...world.measure(door));
      const name = `layered-${counter++}`;
      try {
        await kiln('snapshot', id, name);
        const found = [await enter('exec after a snapshot', id)];
        await kiln('rollback', id, name);
        found.push(await enter('exec after a rollback', id));
        const fork = await kiln('fork', ...world.ground, name);
        found.push(await enter('exec in a fork', fork));
        await kiln('kill', fork);
        const from = ['run', '--from', name, ...world.options, '--'];
        return [...found, await kiln(...from, ...world.measure('run --from'))].join('\n');
      } finally {
        await kiln('kill', id);
        await kiln('snapshot', 'rm', name);
      }
    },
  },
  {
    // The kernel starts the probe as the emulator of a program that the command writes.
    doors: ['run of another architecture'],
    go: async (world) => {
      const [, ...words] = world.measure('run of another architecture');
      const [program = '', ...under] = withEmulator('riscv64', world.probe);
      const foreign = join(await folder(world), 'foreign');
      await writeForeignProgram(foreign, 'riscv64');
      // Nothing but the mount keeps the entry.
      const holder = execa(program, [...under, 'sh', '-c', 'echo ready; exec sleep 600'], {
        reject: false,
        buffer: false,
        forceKillAfterDelay: 0,
      });
      await once(holder.stdout, 'data');
      const copied = ['--copy-in', `${foreign}:/tmp/foreign`];
      const options = ['run', '-r', world.recipe, ...world.options, ...copied, '--'];
      try {
        return await world.call('kiln', [...options, '/tmp/foreign', ...words]);
      } finally {
        holder.kill('SIGKILL');
        await holder;
      }
    },
  },
  {
    doors: ['run -r host'],
    go: (world) => {
      const [, ...words] = world.measure('run -r host');
      const copied = ['--copy-in', `${world.probe}:/tmp/kiln-probe`];
      const options = ['run', '-r', 'host', ...world.options, ...copied, '--'];
      return world.call('kiln', [...options, '/tmp/kiln-probe', ...words]);
    },
  },
  {
    doors: ['shell'],
    go: (world) =>
      world.call('kiln', ['shell', '-r', world.recipe, ...world.options], {
        input: `${world.line('shell')}\n`,
      }),
  },
  kept('shell in a kept sandbox', async () => []),
  kept(
    'shell in a kept sandbox with a network and a bind',
    async (world) => [...HOST, '--bind', `${await open(world)}:/b:rw,Z`],
    '/b',
  ),
  kept('shell in a kept nested sandbox with a network', async () => [
    ...HOST,
    ...['--profile', 'nested'],
  ]),
  build(false),
  build(true),
  {
    doors: ['build --resume: %build'],
    go: async (world) => {
      const spec = { name: 'resumed', build: `${world.line('build --resume: %build')}\nexit 1` };
      const source = await sourcePackage(await folder(world), spec);
      const out = join(world.directory, `out-${counter++}`);
      const args = ['build', '-r', world.recipe, '--resultdir', out, ...world.options];
      const said = await world.call('kiln', [...args, '--keep=5m', source], { status: 1 });
      const id = /kept as (\w+)/.exec(said)?.[1] ?? '';
      await world.call('kiln', ['build', '--resume', id, '--resultdir', out], { status: 1 });
      await world.call('kiln', ['kill', id]);
      return await contents(out, ['build.log']);
    },
  },
  {
    doors: ['build --chain: %build'],
    go: async (world) => {
      const spec = { name: 'chained', build: world.line('build --chain: %build') };
      const source = await sourcePackage(await folder(world), spec);
      const out = join(world.directory, `out-${counter++}`);
      const args = ['build', '--chain', '-r', world.recipe, '--resultdir', out, ...world.options];
      await world.call('kiln', [...args, source]);
      return await contents(join(out, 'chained-1-1'), ['build.log']);
    },
  },
  recipe('YAML'),
  recipe('YAML', 'nested'),
  recipe('TypeScript'),
  {
    doors: ['%post of an image'],
    go: async (world) => {
      const base = await readFile(world.recipe, 'utf8');
      const other = join(world.directory, 'post.yaml');
      await writeFile(other, base.replace('[kiln-probe]', '[kiln-probe, kiln-probe-post]'));
      return await world.call('kiln', ['run', '-r', other, '--', 'cat', '/etc/kiln-probe.out']);
    },
  },
  ...mocked(false),
  ...mocked(true),
  {
    doors: SERVICE,
    go: async (world) => {
      const file = join(world.directory, 'service.yaml');
      const health = ['sh', '-c', `${world.line('service health')} >/run/health`];
      const definition = {
        ...{ image: world.recipe, units: ['kiln-probe.service'], pids: 200, memory: '1G' },
        ...(isMachine(world) ? { isolation: 'vm', 'allow-missing': ['kvm'] } : {}),
        // Once, however slow the probe is; a failure shows below.
        health: { command: health, interval: '1h', timeout: '5m', retries: 1, restart: false },
      };
      await writeFile(file, JSON.stringify(definition));
      await world.call('kiln', ['service', 'create', '--file', file, 'probing']);
      try {
        await world.call('kiln', ['service', 'start', 'probing']);
        // Not by a command in it: the probe fills its process limit for a moment.
        await healthKnown(world, 'probing');
        const execute = (...words: readonly string[]) =>
          world.call('kiln', ['service', 'execute', 'probing', '--', ...words]);
        const said = [
          await execute(...world.measure('service execute')),
          await execute('cat', '/run/health'),
        ];
        said.push(await world.call('kiln', ['service', 'logs', 'probing']));
        return said.join('\n');
      } finally {
        await world.call('kiln', ['service', 'stop', 'probing']);
        await world.call('kiln', ['service', 'delete', '--yes', 'probing']);
      }
    },
  },
  {
    doors: ['service --boot: unit'],
    go: async (world) => {
      const base = await readFile(world.recipe, 'utf8');
      const { directory, keyPath } = await ensureDebianRpms('services');
      const services = `{ id: services, directory: ${directory}, gpgcheck: true, gpgkey: ${keyPath} }`;
      const booting = base
        .replace('repositories:\n', `repositories:\n  - ${services}\n`)
        .replace('groups: [buildsys-build]', '')
        .replace('[kiln-probe]', `[${BOOTING}, kiln-probe]`);
      const file = join(world.directory, 'boot.yaml');
      await writeFile(file, booting);
      const service = (...args: readonly string[]) => world.call('kiln', ['service', ...args]);
      const units = ['-u', 'kiln-probe-boot.service'];
      await service('create', '--boot', ...world.ground, '-r', file, ...units, 'booted');
      try {
        await service('start', 'booted');
        const look = 'until test -s /run/probe; do sleep 0.1; done; cat /run/probe';
        return await service('execute', 'booted', '--', 'sh', '-c', look);
      } finally {
        await service('stop', 'booted');
        await service('delete', '--yes', 'booted');
      }
    },
  },
  {
    doors: ['library: run', 'library: open sandbox'],
    go: async (world) => {
      await using kiln = await connect({ state: world.images.env.KILN_STATE ?? '' });
      const image = world.recipe;
      const ground = isMachine(world)
        ? { isolation: 'vm', allowMissing: ['kvm'], memory: 1 << 30 }
        : {};
      const surroundings = { pids: 200, memory: 1 << 30, ...ground };
      const ran = await kiln.run({ image, argv: world.measure('library: run'), surroundings });
      await using sandbox = await kiln.open({ image, surroundings: ground });
      const [program, ...args] = world.measure('library: open sandbox') as [string, ...string[]];
      return `${ran.stdout}${(await sandbox.execFile(program, args)).stdout}`;
    },
  },
];

/** What the probe finds where nothing is around it. */
export async function onTheHost(world: World): Promise<Measured> {
  const [, ...args] = world.measure('no door at all', world.directory);
  const env = { KILN_TEST_CALLER: 'seen' };
  const more = { stdio: ['ignore', 'pipe', 'pipe', 'pipe'], env } as const;
  const { stdout } = await execa(world.probe, args, more);
  return measuredIn(stdout).get('no door at all')!;
}

/** Goes through doors, several at a time. @returns of each what was found, or why nothing was */
export async function visitAll(
  world: World,
  visits: readonly Visit[],
  atOnce: number,
): Promise<ReadonlyMap<Door, Measured | Error>> {
  const found = new Map<Door, Measured | Error>();
  const [first, ...rest] = visits;
  const go = async ({ doors, go: enter }: Visit) => {
    const said = await enter(world).catch((error: Error) => error);
    const measured = said instanceof Error ? undefined : measuredIn(said);
    for (const door of doors) {
      const nothing =
        said instanceof Error
          ? said
          : new Error(`the probe did not run: ${String(said).slice(-2000)}`);
      found.set(door, measured?.get(door) ?? nothing);
    }
  };
  // The first makes the image.
  if (first !== undefined) await go(first);
  const work = async () => {
    for (let next = rest.shift(); next !== undefined; next = rest.shift()) await go(next);
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  return found;
}
