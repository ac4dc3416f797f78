/** Images of other architectures, with stand-ins for an emulator; test/image/emulated.test.ts has a real one. */
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { openEngine } from '../../src/engine.ts';
import { KilnError } from '../../src/errors.ts';
import type { LeasedImage } from '../../src/image/store/images.ts';
import type { StoredService } from '../../src/service/lifecycle/store.ts';
import { openServiceSandbox } from '../../src/service/supervisor/service-sandbox.ts';
import { seesImage, type UserPolicy } from '../../src/users/configuration.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { seeingEntries, withEmulator, writeForeignProgram } from '../support/emulator.ts';

let state: BusyboxState;
let image: string;
let echo: string;

test.before(async () => {
  state = await busyboxState();
  image = join(state.paths.images, IMAGE);
  echo = join(state.beside, 'echo');
  await copyFile('/bin/busybox', echo);
  await writeForeignProgram(join(image, 'tree/bin/foreign'), 'loongarch64');
});
test.after.always(() => state[Symbol.asyncDispose]());

async function isFor(arch: string): Promise<void> {
  const path = join(image, 'image.json');
  const manifest = JSON.parse(await readFile(path, 'utf8'));
  await writeFile(path, JSON.stringify({ ...manifest, arch }));
}

async function kiln(under: readonly string[], ...args: readonly string[]) {
  const [program = KILN, ...words] = [...under, KILN, ...args];
  const { env } = state;
  return await execa(program, words, { env, reject: false, timeout: 60_000 * PATIENCE });
}

const RUN = ['run', '-r', 'busybox', '--'] as const;

/** As Fedora 31's package had it: no F, so the kernel looks for the interpreter where the program is. */
const ENTRY = `enabled
interpreter /usr/bin/qemu-s390x-static
flags: OC
offset 0
magic 7f454c4602020100000000000000000000020016
mask ffffffffffffff00fffffffffffffffffffeffff
`;

test.serial('an image of another architecture is refused where nothing emulates it', async (t) => {
  await isFor('s390x');
  const none = await kiln(seeingEntries(), ...RUN, 'true');
  t.is(none.exitCode, 125);
  t.regex(
    none.stderr,
    /^kiln: image b{12} is for s390x: no emulator of it is registered on this machine, which is x86_64 \[E_IMAGE_ARCH\]\n.*install the package qemu-user-static/,
  );
  const disabled = await kiln(seeingEntries(ENTRY.replace('enabled', 'disabled')), ...RUN, 'true');
  t.regex(disabled.stderr, /no emulator of it is registered/);
  const other = ENTRY.replace('0016\n', '0015\n');
  t.regex((await kiln(seeingEntries(other), ...RUN, 'true')).stderr, /no emulator of it/);
});

test.serial('an emulator without the flag F is refused, and named', async (t) => {
  await isFor('s390x');
  const { stderr, exitCode } = await kiln(seeingEntries(ENTRY), ...RUN, 'true');
  t.is(exitCode, 125);
  t.regex(
    stderr,
    /its emulator qemu is registered without the flag F, so no sandbox has \/usr\/bin\/qemu-s390x-static/,
  );
  t.regex(stderr, /hint: install the package qemu-user-static/);
});

test.serial('32 bits of this processor need no emulator', async (t) => {
  await isFor('i686');
  const { stdout } = await kiln(seeingEntries(), ...RUN, 'echo', 'here');
  t.is(stdout, 'here');
});

test.serial(
  'programs of another architecture run through the emulator that the kernel holds',
  async (t) => {
    await isFor('loongarch64');
    const under = withEmulator('loongarch64', echo);
    const results = join(state.beside, 'results');
    const words = ['run', '-r', 'busybox', '--resultdir', results, '--', 'foreign', 'a', 'b'];
    const { stdout, stderr } = await kiln(under, ...words);
    t.is(stdout, '/bin/foreign a b', stderr);
    const result = JSON.parse(await readFile(join(results, 'result.json'), 'utf8'));
    t.like(result.image, { name: 'busybox', arch: 'loongarch64' });
    t.is(result.refusedCalls?.length ?? 0, 0);
    // The sandbox does not have the emulator: the kernel does.
    t.is((await kiln(under, ...RUN, 'ls', echo)).exitCode, 1);
    const doctor = await kiln(under, 'doctor', 'emulation', '--json');
    t.regex(JSON.parse(doctor.stdout).checks[0].found, /through an emulator for .*loongarch64/);
  },
);

test.serial('a machine, whose kernel has no emulator, is refused', async (t) => {
  await isFor('s390x');
  const { stderr } = await kiln([], 'run', '--isolation', 'vm', '-r', 'busybox', '--', 'true');
  t.regex(stderr, /a machine has no image for s390x: its processor is this host’s \[E_MACHINE\]/);
});

test.serial('lists, exports and imports have the architecture', async (t) => {
  await isFor('aarch64');
  t.is(JSON.parse((await kiln([], 'image', 'ls', '--json')).stdout)[0].arch, 'aarch64');
  const layout = join(state.beside, 'layout');
  t.is((await kiln([], 'image', 'export', 'busybox', '-o', layout)).exitCode, 0);
  const inspect = ['inspect', '--override-arch', 'arm64', '--config', `oci:${layout}`];
  t.is(JSON.parse((await execa('skopeo', inspect)).stdout).architecture, 'arm64');
  t.regex((await kiln([], 'image', 'import', layout)).stderr, /holds no image for amd64 \[E_OCI\]/);
  const imported = await kiln([], ...['image', 'import', layout, '--arch', 'aarch64', '--json']);
  t.is(JSON.parse(imported.stdout).arch, 'aarch64', imported.stderr);
  const pull = ['image', 'pull', `oci:${layout}`, '--arch', 'aarch64', '--json'];
  const { stdout, stderr } = await kiln([], ...pull);
  t.like(JSON.parse(stdout), { arch: 'aarch64', name: 'layout@aarch64' }, stderr);
});

/** Packages that are called alike, of three architectures; the highest version is the wrong one. */
async function repository(): Promise<string> {
  const folder = join(state.beside, 'repository');
  await mkdir(folder);
  const packages = [
    ...(['x86_64 2', 'aarch64 1', 'i686 3'] as const).map((words) => `both ${words}`),
    'plain noarch 1',
  ];
  for (const words of packages) {
    const [name = '', arch = '', version = ''] = words.split(' ');
    const spec = join(state.beside, `${name}-${arch}.spec`);
    const head = arch === 'noarch' ? 'BuildArch: noarch\n' : '';
    const requires = name === 'both' ? 'Requires: plain\n' : '';
    await writeFile(
      spec,
      `%global debug_package %{nil}\nName: ${name}\nVersion: ${version}\nRelease: 1\nSummary: x\nLicense: none\n${head}${requires}%description\nx\n%files\n`,
    );
    const define = ['--define', `_rpmdir ${folder}`, '--define', `_topdir ${state.beside}/top`];
    const target = arch === 'noarch' ? [] : ['--target', `${arch}-linux`];
    await execa('rpmbuild', ['-bb', '--quiet', ...target, ...define, spec]);
  }
  await execa('createrepo_c', ['-q', folder]);
  return folder;
}

test.serial(
  '--arch chooses packages of the architecture and noarch, for a lock as well',
  async (t) => {
    const recipe = join(state.beside, 'my.yaml');
    const text = `packages: [both]\nrepositories:\n  - { id: r, directory: ${await repository()}, gpgcheck: false }\n`;
    await writeFile(recipe, text);
    const locked = await kiln([], 'image', 'lock', recipe, '--arch', 'aarch64');
    const lock = join(state.beside, 'my@aarch64.lock.json');
    t.is(locked.stdout, lock, locked.stderr);
    const { packages } = JSON.parse(await readFile(lock, 'utf8'));
    t.is(packages.arch, 'aarch64');
    const names = packages.packages.map(({ nevra }: { nevra: string }) => nevra);
    t.deepEqual(names.toSorted(), ['both-1-1.aarch64', 'plain-1-1.noarch']);
    const own = await kiln([], 'image', 'lock', recipe);
    t.is(own.stdout, join(state.beside, 'my.lock.json'), own.stderr);
    t.regex(await readFile(own.stdout, 'utf8'), /both-2-1\.x86_64/);
    for (const words of [[recipe, '--arch', 'aarch64'], [lock]]) {
      const { stderr } = await kiln(seeingEntries(), 'image', 'build', ...words);
      t.regex(stderr, /the image my@aarch64 is for aarch64: no emulator.* \[E_IMAGE_ARCH\]/);
    }
  },
);

test.serial(
  '--arch is refused for what has its architecture, and for what kiln does not know',
  async (t) => {
    const recipe = join(state.beside, 'own.yaml');
    await writeFile(recipe, 'extends: debian-minimal\narch: s390x\n');
    const build = (...words: string[]) => kiln([], 'image', 'build', ...words);
    const other = await build(recipe, '--arch', 'aarch64');
    t.regex(other.stderr, /own\.yaml:2:.* the recipe is for s390x, not for aarch64/s);
    t.regex(
      (await build(IMAGE, '--arch', 'aarch64')).stderr,
      /cannot be made for aarch64 \[E_ARGUMENT\]/,
    );
    const marked = await build('debian-minimal@s390x', '--arch', 'aarch64');
    t.regex(marked.stderr, /debian-minimal@s390x cannot be made for aarch64 \[E_ARGUMENT\]/);
    t.regex(
      (await build('debian-minimal', '--arch', 'arm64')).stderr,
      /Allowed choices are aarch64, /,
    );
    const named = await kiln([], 'image', 'tag', 'busybox', 'debian-minimal@aarch64');
    t.not(named.exitCode, 0, 'the name of a recipe for another architecture is that recipe’s');
  },
);

test('users have an image that root lists for every architecture', (t) => {
  const policy = { images: ['tools'], hostImage: true } as unknown as UserPolicy;
  const sees = (name: string) => seesImage(policy, { name, private: false });
  t.deepEqual(['tools', 'tools@aarch64', 'other@aarch64'].map(sees), [true, true, false]);
});

test('no system is booted through an emulator', async (t) => {
  const image = { tree: '/', manifest: { id: IMAGE, arch: 's390x' } } as unknown as LeasedImage;
  const service = { name: 'web', definition: { boot: true } } as unknown as StoredService;
  const opened = openServiceSandbox(openEngine(state.env), service, image, undefined);
  const error = await t.throwsAsync(opened, { instanceOf: KilnError });
  t.is(error?.code, 'E_BOOT');
  t.regex(error?.message ?? '', /^web cannot boot: its image is for s390x, which is emulated$/);
});
