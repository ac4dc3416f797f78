/** The kernel that a machine boots, where somebody names one. */
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir, readFile, symlink, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { resourceUsage } from 'node:process';
import { gzipSync } from 'node:zlib';
import test from 'ava';
import { execa } from 'execa';
import { ensureBootFiles } from '../../src/sandbox/domain/machine/boot-files.ts';
import { findKernel, givenKernel } from '../../src/sandbox/domain/machine/kernel.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { bzImage } from '../support/bz-image.ts';
import { long } from '../support/long.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const VM = ['--isolation', 'vm', '-r', IMAGE] as const;

test('a kernel has the modules of its version', async (t) => {
  const found = findKernel();
  t.deepEqual(givenKernel(found.image), found);
  const folders = [join(state.beside, 'modules')];
  const [folder] = folders as [string];
  const lacking = join(folder, '9.9.9-lacking');
  await mkdir(lacking, { recursive: true });
  await writeFile(join(lacking, 'modules.builtin'), 'kernel/fs/fuse/virtiofs.ko\n');
  await writeFile(join(state.beside, 'image'), bzImage('9.9.9-lacking'));
  t.throws(() => givenKernel(join(state.beside, 'image'), folders), {
    code: 'E_MACHINE_KERNEL',
    message: /lacks virtio_pci, virtio_console, overlay$/,
  });
});

test('the initramfs has the modules as the kernel loads them, after stage 0 and the init', async (t) => {
  const { folder } = await ensureBootFiles(state.paths);
  const { stdout: kernel } = await execa('readelf', ['-h', join(folder, 'vmlinux')]);
  t.regex(kernel, /Machine: +Advanced Micro Devices X86-64/);
  const initramfs = join(folder, 'initramfs');
  const { stdout } = await execa('bsdtar', ['-tf', initramfs]);
  const names = stdout.split('\n').filter((name) => !name.endsWith('/'));
  t.true(names.includes('init') && names.includes('skeleton/kiln-init'), stdout);
  const modules = names.filter((name) => /^modules\/[\d]+-[\w-]+\.ko(\.xz)?$/.test(name));
  t.is(modules.length, findKernel().modules.length, stdout);
  const unpacked = await execa('bsdtar', ['-xOf', initramfs, String(modules[0])], {
    encoding: 'buffer',
  });
  t.regex(Buffer.from(unpacked.stdout).toString('latin1', 0, 6), /^(\x7fELF|\xfd7zXZ\0)/);
});

test('a kernel is unpacked outside of this process, and stays packed where it grows too large', async (t) => {
  // Each part is whole by itself: this process never has all of it.
  const part = gzipSync(Buffer.alloc(4 << 20));
  const payload = Buffer.concat(Array.from({ length: 100 }, () => part));
  const image = Buffer.concat([bzImage(findKernel().release), payload]);
  image.writeUInt8(1, 0x1f1);
  image.writeUInt32LE(8192 - 1024, 0x248);
  image.writeUInt32LE(payload.length, 0x24c);
  const file = join(state.beside, 'grows');
  await writeFile(file, image);
  const before = resourceUsage().maxRSS;
  const { folder } = await ensureBootFiles(state.paths, file);
  t.true(image.equals(await readFile(join(folder, 'vmlinux'))));
  t.true(resourceUsage().maxRSS - before < 100 << 10, 'kibibytes');
});

test.serial(
  'kiln gc removes what no machine has booted for a day, but what the next one boots',
  async (t) => {
    const { folder } = await ensureBootFiles(state.paths);
    const current = basename(folder);
    const ages = {
      ...{ [current]: 400, '0123456789abcdef': 25, fedcba9876543210: 23 },
      ...{ '0123456789abcdef.new-aaaaaa': 2, 'saved-0123456789abcdef': 400 },
    };
    const { machines } = state.paths;
    for (const [name, hours] of Object.entries(ages)) {
      const path = join(machines, name);
      if (name.startsWith('saved-')) await writeFile(path, '');
      else await mkdir(path, { recursive: true });
      const then = new Date(Date.now() - hours * 3_600_000);
      await utimes(path, then, then);
    }
    const others = (await readdir(machines)).filter((name) => !(name in ages));
    const gc = async (...words: string[]) => {
      const ran = await state.kiln(['gc', '--json', ...words]);
      t.is(ran.exitCode, 0, String(ran.stderr));
      t.deepEqual(
        (await readdir(machines)).filter((name) => others.includes(name)).toSorted(),
        others.toSorted(),
      );
      return JSON.parse(String(ran.stdout)).machines.toSorted();
    };
    t.deepEqual(await gc(), ['0123456789abcdef', '0123456789abcdef.new-aaaaaa']);
    t.deepEqual(await gc('--max-age', '2w'), [current, 'saved-0123456789abcdef'].toSorted());
    t.true(existsSync(join(machines, 'fedcba9876543210')));
    // Whoever uses it keeps it.
    await ensureBootFiles(state.paths);
    const old = new Date(0);
    await utimes(folder, old, old);
    await ensureBootFiles(state.paths);
    t.deepEqual(await gc('--max-age', '2w'), []);
  },
);

test('--kernel refuses a file that is no kernel, and a kernel without modules', async (t) => {
  const file = join(state.beside, 'none');
  await writeFile(file, bzImage('9.9.9-none'));
  await symlink(file, join(state.beside, 'link'));
  for (const [kernel, why] of [
    ['/etc/passwd', /no bzImage/],
    [state.beside, /no bzImage/],
    [file, /version is 9\.9\.9-none, whose modules are not in/],
    [join(state.beside, 'link'), /version is 9\.9\.9-none/],
  ] as const) {
    const { exitCode, stderr } = await state.kiln(['run', ...VM, '--kernel', kernel, '--', 'true']);
    t.is(exitCode, 125);
    t.regex(String(stderr), why);
  }
  const container = await state.kiln(['run', '-r', IMAGE, '--kernel', file, '--', 'true']);
  t.regex(String(container.stderr), /--kernel is for a machine/);
});

long('a machine boots the kernel that --kernel names', async (t) => {
  t.timeout(400_000 * PATIENCE);
  const { image, release } = findKernel();
  const kernel = join(state.beside, 'mine');
  await copyFile(image, kernel);
  const before = await readdir(state.paths.machines).catch(() => []);
  const { exitCode, stdout, stderr } = await state.kiln(
    ['run', ...VM, '--kernel', kernel, '--allow-missing', 'kvm', '--', 'uname', '-r'],
    { timeout: 300_000 * PATIENCE },
  );
  t.is(exitCode, 0, String(stderr));
  t.is(stdout, release);
  // It is kept as the host's own are.
  t.is((await readdir(state.paths.machines)).length, before.length + 1);
});
