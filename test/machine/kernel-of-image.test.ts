/** The kernel that an image's own packages bring, as a recipe's `kernel: true` has machines boot it. */
import { constants, openSync } from 'node:fs';
import { mkdir, open, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import anyTest from 'ava';
import { execa } from 'execa';
import { closing } from '../../src/host/calls/descriptor.ts';
import { findKernel } from '../../src/sandbox/domain/machine/kernel.ts';
import {
  findImageKernel,
  openImageKernel,
} from '../../src/sandbox/domain/machine/kernel-of-image.ts';
import { type BusyboxState, busyboxState, PATIENCE } from '../support/busybox-state.ts';
import { bzImage } from '../support/bz-image.ts';
import { long } from '../support/long.ts';

const test = anyTest.serial;

let state: BusyboxState;
let tree: string;

const RELEASE = '6.1.0-mine';
const FOLDER = `usr/lib/modules/${RELEASE}`;

test.before(async () => {
  state = await busyboxState();
  tree = join(state.beside, 'tree');
});
test.beforeEach(async () => {
  await rm(tree, { recursive: true, force: true });
  await mkdir(tree);
});
test.after.always(() => state[Symbol.asyncDispose]());

async function put(path: string, content: string | Buffer): Promise<void> {
  await mkdir(dirname(join(tree, path)), { recursive: true });
  await writeFile(join(tree, path), content);
}

/** All that is looked for, with two modules. */
async function putKernel(): Promise<void> {
  await put(`${FOLDER}/vmlinuz`, bzImage(RELEASE));
  await put(`${FOLDER}/modules.builtin`, 'kernel/virtio_pci.ko\nkernel/virtio_console.ko\n');
  await put(
    `${FOLDER}/modules.dep`,
    'kernel/fs/virtiofs.ko.xz: kernel/fs/fuse.ko.xz\nkernel/fs/fuse.ko.xz:\nkernel/overlay.ko.xz:\nkernel/xfs.ko:\n',
  );
  for (const name of ['fs/virtiofs.ko.xz', 'fs/fuse.ko.xz', 'overlay.ko.xz', 'xfs.ko'])
    await put(`${FOLDER}/kernel/${name}`, name);
}

async function find() {
  using root = closing(openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY));
  return await findImageKernel(root.fd);
}

test('the newest kernel of a tree is found, with its modules in order', async (t) => {
  await putKernel();
  await put('usr/lib/modules/6.10.0-none/modules.dep', '');
  await put('usr/lib/modules/5.9.0/vmlinuz', bzImage('5.9.0'));
  const found = await find();
  t.is(found.release, RELEASE);
  t.is(found.image, `${FOLDER}/vmlinuz`);
  t.deepEqual(
    found.modules.map(({ name }) => name),
    ['fuse.ko.xz', 'virtiofs.ko.xz', 'overlay.ko.xz'],
  );
  t.deepEqual(found.imageModules, [{ name: 'xfs.ko', path: `${FOLDER}/kernel/xfs.ko` }]);
  using held = openImageKernel(tree, found);
  t.is(await readFile(held.modules[1]!.path, 'utf8'), 'fs/virtiofs.ko.xz');
});

test('as Debian has it, the kernel lies in /boot', async (t) => {
  await putKernel();
  await mkdir(join(tree, 'boot'));
  await rename(join(tree, FOLDER, 'vmlinuz'), join(tree, `boot/vmlinuz-${RELEASE}`));
  t.is((await find()).image, `boot/vmlinuz-${RELEASE}`);
});

const REFUSED: readonly (readonly [string, () => Promise<void>, RegExp, RegExp])[] = [
  ['no kernel', async () => {}, /its packages bring none$/, /kernel-core/],
  [
    'lists that nobody made',
    () => rm(join(tree, FOLDER, 'modules.dep')),
    /has no \/usr\/lib\/modules\/6\.1\.0-mine\/modules\.dep$/,
    /depmod/,
  ],
  ['another file', () => put(`${FOLDER}/vmlinuz`, 'text'), /is no bzImage for x86$/, /one package/],
  [
    'another version',
    () => put(`${FOLDER}/vmlinuz`, bzImage('6.2')),
    /is of the version 6\.2$/,
    /one package/,
  ],
  [
    'missing modules',
    () => put(`${FOLDER}/modules.dep`, ''),
    /6\.1\.0-mine lacks virtiofs, overlay$/,
    /kernel-modules-core/,
  ],
];

for (const [what, damage, why, hint] of REFUSED) {
  test(`an image with ${what} is refused`, async (t) => {
    if (what !== 'no kernel') await putKernel();
    await damage();
    const error = await t.throwsAsync(find, { code: 'E_MACHINE_KERNEL', message: why });
    t.regex(String((error as { hint?: string }).hint), hint);
  });
}

test('nothing in a tree leads out of it, and nothing is read without end', async (t) => {
  const { image } = findKernel();
  await putKernel();
  const vmlinuz = join(tree, FOLDER, 'vmlinuz');
  await rm(vmlinuz);
  await symlink(image, vmlinuz);
  await t.throwsAsync(find, { message: /bring none$/ });
  await rm(vmlinuz);
  await execa('mkfifo', [vmlinuz]);
  await t.throwsAsync(find, { message: /bring none$/ });
  await rm(vmlinuz);
  await writeFile(vmlinuz, bzImage(RELEASE));
  // A link inside of the tree is followed, as from its root.
  await rename(vmlinuz, join(tree, 'kernel'));
  await symlink('/kernel', vmlinuz);
  t.is((await find()).release, RELEASE);
  await using list = await open(join(tree, FOLDER, 'modules.dep'), 'r+');
  await list.truncate(2 ** 40);
  await t.throwsAsync(find, { message: /modules\.dep$/ });
});

test('modules that lie outside of their folder, or are too many, are refused', async (t) => {
  await putKernel();
  for (const needs of ['../../../../etc/passwd', 'a/../b.ko', 'a '.repeat(30)]) {
    await put(`${FOLDER}/modules.dep`, `k/virtiofs.ko: ${needs}\nk/overlay.ko:\n`);
    if (needs.startsWith('a ')) {
      const many = Array.from({ length: 30 }, (_, nth) => `k/${nth}.ko`).join(' ');
      await put(`${FOLDER}/modules.dep`, `k/virtiofs.ko: ${many}\nk/overlay.ko:\n`);
    }
    await t.throwsAsync(find, { code: 'E_CONFINE_PROTOCOL' }, needs);
  }
});

test('what is gone since is said', async (t) => {
  await putKernel();
  const found = await find();
  await rm(join(tree, FOLDER, 'kernel/overlay.ko.xz'));
  t.throws(() => openImageKernel(tree, found), {
    message: /overlay\.ko\.xz is not there any more$/,
  });
});

/** An RPM with busybox, and one with the host's kernel: the oracle is what that package says of itself. */
async function packKernel(folder: string, release: string, image: string): Promise<void> {
  const modules = `/usr/lib/modules/${release}`;
  const { stdout: name } = await execa('sh', [
    '-c',
    `[ -d ${modules} ] || modules=/lib/modules/${release}; echo "\${modules:-${modules}}"`,
  ]);
  const spec = join(folder, 'kernel.spec');
  await writeFile(
    spec,
    `Name: kernel-of-mine
Version: 1
Release: 1
Summary: kernel
License: GPL-2.0-only
AutoReqProv: no
%define __os_install_post %{nil}
%define debug_package %{nil}
%description
kernel
%install
mkdir -p %{buildroot}${modules} %{buildroot}/bin
cp ${image} %{buildroot}${modules}/vmlinuz
cp -r ${name}/kernel ${name}/modules.builtin ${name}/modules.dep %{buildroot}${modules}/
cp /bin/busybox %{buildroot}/bin/busybox
for applet in sh uname; do ln -s busybox %{buildroot}/bin/$applet; done
%files
/bin
/usr/lib/modules
`,
  );
  const define = (key: string, value: string) => ['--define', `${key} ${value}`];
  await execa('rpmbuild', [
    ...['-bb', '--quiet', '--nodeps'],
    ...[...define('_topdir', folder), ...define('_build_id_links', 'none')],
    ...[...define('_rpmdir', join(folder, 'rpms')), ...define('_binary_payload', 'w1.zstdio')],
    spec,
  ]);
  await execa('createrepo_c', ['--quiet', join(folder, 'rpms')]);
}

long('a machine of an image boots the kernel of its package', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const { release, image } = findKernel();
  const folder = join(state.beside, 'packages');
  await mkdir(folder);
  await packKernel(folder, release, image);
  const recipe = join(state.beside, 'with-kernel.yaml');
  await writeFile(
    recipe,
    `repositories:
  - id: mine
    directory: ${join(folder, 'rpms')}
    gpgcheck: false
packages: [kernel-of-mine]
workdir: /
kernel: true
`,
  );
  const built = await state.kiln(['image', 'build', recipe], { timeout: 300_000 * PATIENCE });
  t.is(built.exitCode, 0, String(built.stderr));
  const before = await readdir(state.paths.machines).catch((): string[] => []);
  const words = ['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', recipe, '--'];
  const ran = await state.kiln([...words, 'uname', '-r'], { timeout: 300_000 * PATIENCE });
  t.is(ran.stdout, release, String(ran.stderr));
  const after = await readdir(state.paths.machines);
  // The kernel and initramfs are made of the image's own files, and kept as the host's are.
  const made = after.filter((name) => !before.includes(name) && !name.startsWith('saved-'));
  t.is(made.length, 1);
});
