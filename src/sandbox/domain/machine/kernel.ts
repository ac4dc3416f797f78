/** The kernel of machines: the newest of the host's packages that has, built in or as modules, what a machine needs. */
import { existsSync, openSync, readdirSync, statSync } from 'node:fs';
import { release } from 'node:os';
import { basename, join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { attempt, readText } from '../../../host/calls/libc.ts';
import { readInto } from '../../../host/files/content.ts';

export interface GuestKernel {
  readonly release: string;
  readonly image: string;
  /** Paths of modules, each after those that it needs. */
  readonly modules: readonly string[];
  /** Those that are loaded when somebody names a file with a file system. */
  readonly imageModules: readonly string[];
}

const MODULES = ['/usr/lib/modules', '/lib/modules'];

const NEEDED = ['virtio_pci', 'virtio_console', 'virtiofs', 'overlay'];
/** An older kernel has no generator of random numbers that needs no module, and no network card is no loss. */
const WELCOME = ['virtio_rng', 'virtio_net'];
/** As src/guest/machine/image.c has them. */
const OF_IMAGES = ['loop', 'squashfs', 'erofs', 'xfs', 'ext4'];

/** More is no kernel. Bytes. */
export const IMAGE_MAX = 256 << 20;

/** `virtio-rng.ko.xz` is the module virtio_rng. */
function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\..*)?$/, '')
    .replaceAll('-', '_');
}

const NO_KERNEL = 'apt-get install linux-image-cloud-amd64, or dnf install kernel-core';

/** The newest of the host's. @throws KilnError E_MACHINE_KERNEL */
export function findKernel(folders: readonly string[] = MODULES): GuestKernel {
  const missing: string[] = [];
  for (const { release, folder, image } of installed(folders)) {
    const table = new ModuleTable(folder);
    const lacking = table.lacking();
    if (lacking.length === 0) return { release, image, ...table.wanted() };
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
  const table = new ModuleTable(folder);
  const lacking = table.lacking();
  if (lacking.length > 0) throw refused(`it lacks ${lacking.join(', ')}`, NO_KERNEL);
  return { release, image, ...table.wanted() };
}

/** The most that {@link releaseOf} looks at. Bytes. */
const START = 0x200 + 0xffff + 256;

function startOf(path: string): Buffer {
  using file = closing(openSync(path, 'r'));
  return readInto(Buffer.alloc(START), file.fd, 0);
}

/** As a bzImage says it in its header: Documentation/arch/x86/boot.rst, kernel_version. */
function releaseOf(image: Buffer): string | undefined {
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

class ModuleTable {
  readonly #folder: string;
  readonly #builtin: ReadonlySet<string>;
  readonly #files = new Map<string, { readonly path: string; readonly needs: readonly string[] }>();

  constructor(folder: string) {
    this.#folder = folder;
    const lines = (name: string) =>
      (readText(join(folder, name)) ?? '').split('\n').filter(Boolean);
    this.#builtin = new Set(lines('modules.builtin').map(moduleName));
    for (const line of lines('modules.dep')) {
      const [path = '', needs = ''] = line.split(':');
      this.#files.set(moduleName(path), { path, needs: needs.split(' ').filter(Boolean) });
    }
  }

  lacking(): string[] {
    return NEEDED.filter((name) => !this.has(name));
  }

  /** What a machine needs, and what it takes where it is there. */
  wanted(): Pick<GuestKernel, 'modules' | 'imageModules'> {
    const modules = this.files([...NEEDED, ...WELCOME]);
    const imageModules = this.files(OF_IMAGES).filter((path) => !modules.includes(path));
    return { modules, imageModules };
  }

  /** Paths, each after those that it needs; none for what is missing. */
  files(names: readonly string[]): string[] {
    return [...new Set(names.flatMap((name) => this.paths(name)))];
  }

  has(name: string): boolean {
    return this.#builtin.has(name) || this.#files.has(name);
  }

  /** Its file after those that it needs; none for what is built in. */
  paths(name: string): string[] {
    const found = this.#builtin.has(name) ? undefined : this.#files.get(name);
    if (found === undefined) return [];
    // modules.dep lists the nearest first.
    return [...[...found.needs].reverse(), found.path].map((path) => join(this.#folder, path));
  }
}
