/** The kernel of machines: the newest of the host's packages that has, built in or as modules, what a machine needs. */
import { existsSync, openSync, readdirSync, statSync } from 'node:fs';
import { release } from 'node:os';
import { basename, join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { attempt, readText } from '../../../host/calls/libc.ts';
import { readInto } from '../../../host/files/content.ts';
import type { GuestKernel } from '../../policy/guest-kernel.ts';
import { ModuleTable, type WantedModules } from './modules.ts';

const MODULES = ['/usr/lib/modules', '/lib/modules'];

/** More is no kernel. Bytes. */
export const IMAGE_MAX = 256 << 20;
/** More is no module. Bytes. */
export const MODULE_MAX = 32 << 20;

const NO_KERNEL = 'apt-get install linux-image-cloud-amd64, or dnf install kernel-core';

/** The newest of the host's. @throws KilnError E_MACHINE_KERNEL */
export function findKernel(folders: readonly string[] = MODULES): GuestKernel {
  const missing: string[] = [];
  for (const { release, folder, image } of installed(folders)) {
    const table = tableOf(folder);
    const lacking = table.lacking();
    if (lacking.length === 0)
      return { release, image, ...placed(table.wanted(), (path) => join(folder, path)) };
    missing.push(`${release} lacks ${lacking.join(', ')}`);
  }
  const why = missing.length === 0 ? 'none is installed with its modules' : missing.join('; ');
  throw new KilnError('E_MACHINE_KERNEL', `there is no kernel for a machine: ${why}`, {
    hint: NO_KERNEL,
  });
}

/** One that somebody names, whose modules are where the host has them. @throws KilnError E_MACHINE_KERNEL */
export function givenKernel(image: string, folders: readonly string[] = MODULES): GuestKernel {
  const refused = (why: string, hint: string) =>
    new KilnError('E_MACHINE_KERNEL', `the kernel of --kernel cannot be booted: ${why}`, { hint });
  const stat = statSync(image);
  const release = stat.isFile() && stat.size <= IMAGE_MAX ? releaseOf(startOf(image)) : undefined;
  if (release === undefined)
    throw refused('it is no bzImage for x86', 'name the vmlinuz of a package');
  const folder = folders.map((parent) => join(parent, release)).find((path) => existsSync(path));
  if (folder === undefined)
    throw refused(
      `its version is ${release}, whose modules are not in /lib/modules`,
      'install its modules, or leave out --kernel',
    );
  const table = tableOf(folder);
  const lacking = table.lacking();
  if (lacking.length > 0) throw refused(`it lacks ${lacking.join(', ')}`, NO_KERNEL);
  return { release, image, ...placed(table.wanted(), (path) => join(folder, path)) };
}

function tableOf(folder: string): ModuleTable {
  const text = (name: string) => readText(join(folder, name)) ?? '';
  return new ModuleTable(text('modules.builtin'), text('modules.dep'));
}

/** @param open gives the path by which a module is opened */
export function placed(
  { modules, imageModules }: WantedModules,
  open: (path: string) => string,
): Pick<GuestKernel, 'modules' | 'imageModules'> {
  const place = (path: string) => ({ name: basename(path), path: open(path) });
  return { modules: modules.map(place), imageModules: imageModules.map(place) };
}

/** The most that {@link releaseOf} looks at. Bytes. */
export const START = 0x200 + 0xffff + 256;

function startOf(path: string): Buffer {
  using file = closing(openSync(path, 'r'));
  return readInto(Buffer.alloc(START), file.fd, 0);
}

/** As a bzImage says it in its header: Documentation/arch/x86/boot.rst, kernel_version. */
export function releaseOf(image: Buffer): string | undefined {
  if (image.length < 0x210 || image.toString('latin1', 0x202, 0x206) !== 'HdrS') return undefined;
  const at = image.readUInt16LE(0x20e) + 0x200;
  return /^[\w.+~-]+/.exec(image.toString('latin1', at, at + 256))?.[0];
}

function installed(folders: readonly string[]) {
  const found = folders.flatMap((parent) => {
    const names = attempt(() => readdirSync(parent)) ?? [];
    return names.flatMap((release) => {
      const folder = join(parent, release);
      const images = [join(folder, 'vmlinuz'), `/boot/vmlinuz-${release}`];
      const image = images.find((path) => existsSync(path));
      return image === undefined ? [] : [{ release, folder, image }];
    });
  });
  // A kernel made for machines starts in half the time; the running one is known to work.
  const rank = (name: string) =>
    (/cloud|kvm|virt/.test(name) ? 2 : 0) + (name === release() ? 1 : 0);
  return found.sort(
    (a, b) =>
      rank(b.release) - rank(a.release) ||
      b.release.localeCompare(a.release, 'en', { numeric: true }),
  );
}
