/** What the doors lead into: one image with the probe in it, and what of the host the probe looks for. */
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import { debianRepository, type ImageState, imageState } from '../image/image-state.ts';
import { abstractSocket } from '../support/abstract-socket.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { endDaemon } from '../support/daemon.ts';

export interface World extends AsyncDisposable {
  readonly images: ImageState;
  readonly directory: string;
  /** The recipe of the image that has the probe. */
  readonly recipe: string;
  /** What sandboxes stand on. */
  readonly isolation: Isolation;
  /** The words for that. */
  readonly ground: readonly string[];
  /** The same, and limits that are tried: fewer processes than the probe makes. */
  readonly options: readonly string[];
  /** The probe on the host. */
  readonly probe: string;
  /** What is in the words of each probe of this world, and of no other's. */
  readonly mark: string;
  /** The command line that measures a door. @param directory where it makes files, /tmp by default */
  measure(door: string, directory?: string): string[];
  /** The same, for a shell. */
  line(door: string, directory?: string): string;
  /** Runs a program of bin/ on the state; gives all it wrote. Throws unless it ends with `status`. */
  call(program: 'kiln' | 'kiln-mock', args: readonly string[], more?: CallOptions): Promise<string>;
}

interface CallOptions {
  readonly input?: string;
  readonly status?: number;
  readonly env?: NodeJS.ProcessEnv;
}

const bin = join(import.meta.dirname, '../../bin');

type Isolation = 'container' | 'vm';

const LIMITS = ['--pids', '200', '--memory', '1G'];
const GROUND: Readonly<Record<Isolation, readonly string[]>> = {
  container: [],
  vm: ['--isolation', 'vm', '--allow-missing', 'kvm'],
};

/** Makes the state and its image; disposing of it removes everything. */
export async function openWorld(isolation: Isolation = 'container'): Promise<World> {
  const images = await imageState({ unpacked: 'all' });
  const { directory } = images;
  const socket = await abstractSocket();
  const server = createServer((client) => client.destroy());
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  const probe = join(directory, 'kiln-probe');
  const measure = (door: string, where = '/tmp') => [
    ...['/usr/bin/kiln-probe', door, socket.name, String(port), where],
    // Nobody on the host sees it in a machine: it waits for nobody.
    ...(isolation === 'vm' ? ['0'] : []),
  ];
  const line = (door: string, where?: string) =>
    measure(door, where)
      .map((word) => `'${word}'`)
      .join(' ');
  // Not position-independent: pointers for 32-bit calls must be small.
  const flags = ['-std=gnu17', '-O1', '-Wall', '-Werror', '-static', '-no-pie', '-o', probe];
  await execa('cc', [...flags, join(import.meta.dirname, 'probe.c')]);
  const repository = await probeRepository(directory, probe, line);
  const recipe = await images.recipe('doors', RECIPE, [
    await debianRepository(),
    { id: 'doors', directory: repository },
  ]);
  // The bundle where it is up to date, and so the daemon; the caller's variable must not be seen inside.
  const { KILN_FROM_SOURCE = '' } = process.env;
  const env = { ...images.env, KILN_FROM_SOURCE, KILN_TEST_CALLER: 'seen' };
  const world: World = {
    ...{ images, directory, recipe, probe, measure, line, isolation },
    ground: GROUND[isolation],
    options: [...LIMITS, ...GROUND[isolation]],
    mark: socket.name,
    async call(program, args, { input, status = 0, env: more = {} } = {}) {
      const { exitCode, all } = await execa(join(bin, program), args, {
        cwd: directory,
        env: { ...env, HOME: directory, ...more },
        ...(input === undefined ? { stdin: 'ignore' } : { input }),
        all: true,
        reject: false,
        timeout: (isolation === 'vm' ? 600_000 : 120_000) * PATIENCE,
        killSignal: 'SIGKILL',
      });
      if (exitCode === status) return all;
      throw new Error(`${program} ${args.join(' ')} ended with ${exitCode}:\n${all.slice(-2000)}`);
    },
    async [Symbol.asyncDispose]() {
      await socket[Symbol.asyncDispose]();
      server.close();
      await endDaemon(images.engine.paths.root);
      await images[Symbol.asyncDispose]();
    },
  };
  return world;
}

const RECIPE = `
groups: [buildsys-build]
packages: [kiln-probe]
users:
  - { name: build, uid: 1000, home: /builddir, shell: /bin/bash }
user: build
environment: { PATH: /usr/bin:/usr/sbin }
files:
  - { path: /etc/rpm/macros.test, content: "%_buildshell /bin/bash\\n" }
`;

/**
 * kiln-probe: the probe and the unit kiln-probe.service; kiln-probe-post, which runs it when it is installed.
 */
async function probeRepository(
  directory: string,
  probe: string,
  line: World['line'],
): Promise<string> {
  const folder = join(directory, 'doors');
  await mkdir(folder);
  await copyFile(probe, join(folder, 'kiln-probe'));
  const spec = join(directory, 'kiln-probe.spec');
  await writeFile(
    spec,
    `Name: kiln-probe
Version: 1
Release: 1
Summary: test
License: none
%global debug_package %{nil}
%global __strip /bin/true
%description
test
%package post
Summary: test
Requires(post): /bin/sh kiln-probe
%description post
test
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/usr/lib/systemd/system
cp ${folder}/kiln-probe %{buildroot}/usr/bin/
cat >%{buildroot}/usr/lib/systemd/system/kiln-probe.service <<'END'
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${line('service unit').replaceAll("'", '"')}
END
cat >%{buildroot}/usr/lib/systemd/system/kiln-probe-boot.service <<'END'
[Service]
Type=oneshot
RemainAfterExit=yes
StandardOutput=file:/run/probe
ExecStart=${line('service --boot: unit').replaceAll("'", '"')}
END
%post post
${line('%post of an image')} >/etc/kiln-probe.out 2>&1
%files
%attr(755, root, root) /usr/bin/kiln-probe
/usr/lib/systemd/system/kiln-probe.service
/usr/lib/systemd/system/kiln-probe-boot.service
%files post
`,
  );
  const macros = { _rpmdir: folder, _topdir: join(directory, 'top'), _rpmfilename: '%%{NAME}.rpm' };
  const defines = Object.entries(macros).flatMap(([key, value]) => ['--define', `${key} ${value}`]);
  await execa('rpmbuild', ['-bb', '--quiet', ...defines, spec]);
  await execa('createrepo_c', ['--quiet', folder]);
  return folder;
}
