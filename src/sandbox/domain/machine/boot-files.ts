/** What a machine boots: the kernel and an initramfs, made once and kept by their digest. */
import { hash } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, readFileSync, type Stats, statSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { hasErrno } from '../../../host/calls/libc.ts';
import { heldParts } from '../../../host/files/held.ts';
import { removeTree } from '../../../host/files/remove-tree.ts';
import { shortHash } from '../../../host/process/short-hash.ts';
import { packageRoot } from '../../../host/state/package-root.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { awaitedLater } from '../../../promise.ts';
import { INIT_PATH, MOUNT_POINTS, requireInit, requirePassable } from '../skeleton.ts';
import { findKernel, type GuestKernel, givenKernel, readModule, unpackedKernel } from './kernel.ts';

export interface BootFiles {
  /** Names this kernel and initramfs; its folder has both. */
  readonly folder: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly release: string;
}

export const KERNEL = 'vmlinux';

export function machineProgram(name: 'kiln-relay' | 'kiln-stage0'): { path: string; stat: Stats } {
  const path = join(packageRoot(), 'dist', name);
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat !== undefined) return { path, stat };
  throw new KilnError('E_NO_GUEST_INIT', `${name} has not been compiled`, {
    hint: 'run `scripts/quickstart`, or `npm run build` where a C compiler and a static C library are',
  });
}

let making: Promise<BootFiles> | undefined;

/** @param image of a kernel, instead of the newest of the host's @throws KilnError E_MACHINE_KERNEL, E_NO_GUEST_INIT */
export async function ensureBootFiles(paths: StatePaths, image?: string): Promise<BootFiles> {
  if (image !== undefined) return await ensure(paths, givenKernel(image));
  making ??= awaitedLater(
    ensure(paths, findKernel()).finally(() => {
      making = undefined;
    }),
  );
  return await making;
}

async function ensure(paths: StatePaths, kernel: GuestKernel): Promise<BootFiles> {
  const sources = [requireInit().path, machineProgram('kiln-stage0').path, kernel.image];
  // Size and time stand for the content, which would take long to read; the name of what is held open says nothing.
  const key = [...sources, ...kernel.modules, ...kernel.imageModules].map((path) => {
    const { dev, ino, size, mtimeMs } = statSync(path);
    const name = heldParts(path) === undefined ? path : `${dev} ${ino}`;
    return `${name} ${size} ${Math.floor(mtimeMs)}`;
  });
  const digest = hash('sha256', [LAYOUT, ...key].join('\n')).slice(0, 16);
  const folder = join(paths.machines, digest);
  // libvirt's XML gets a path without characters that could be misread.
  const seen = join(paths.link, relative(paths.root, folder));
  const files = { folder, kernel: join(seen, KERNEL), initramfs: join(seen, 'initramfs') };
  if (!existsSync(folder)) await make(paths, kernel, folder);
  requirePassable(paths.root);
  return { ...files, release: kernel.release };
}

/** Whole or not there: its folder gets its name last. */
async function make(paths: StatePaths, kernel: GuestKernel, folder: string): Promise<void> {
  mkdirSync(paths.machines, { recursive: true, mode: 0o711 });
  for (const above of [paths.root, paths.machines]) chmodSync(above, statSync(above).mode | 0o111);
  const half = `${folder}.${process.pid}.new`;
  mkdirSync(half, { mode: 0o711 });
  try {
    const files = {
      [KERNEL]: unpackedKernel(readFileSync(kernel.image)),
      initramfs: initramfs(kernel),
    };
    for (const [name, content] of Object.entries(files)) {
      // qemu reads them, as a user of its own; nothing in them is secret.
      await writeFile(join(half, name), content, { mode: 0o644 });
    }
    await rename(half, folder);
  } catch (error) {
    await removeTree(half);
    // Another kiln has made it first.
    if (!hasErrno(error, 'EEXIST', 'ENOTEMPTY')) throw error;
  }
}

const LAYOUT = shortHash(MOUNT_POINTS.join('\n'));

const DIRECTORY = 0o040755;
const PROGRAM = 0o100755;
const FILE = 0o100644;

function initramfs(kernel: GuestKernel): Buffer {
  const archive = new Archive();
  const skeleton = MOUNT_POINTS.flatMap((point) => partsOf(`skeleton/${point}`));
  const modules = { modules: kernel.modules, 'modules-of-images': kernel.imageModules };
  const folders = new Set([...Object.keys(modules), ...skeleton]);
  for (const folder of folders) archive.add(folder, DIRECTORY);
  archive.add('init', PROGRAM, readFileSync(machineProgram('kiln-stage0').path));
  archive.add(`skeleton${INIT_PATH}`, PROGRAM, readFileSync(requireInit().path));
  for (const [folder, paths] of Object.entries(modules)) {
    for (const [index, path] of paths.entries()) {
      const { name, content } = readModule(path);
      archive.add(`${folder}/${String(index).padStart(2, '0')}-${name}`, FILE, content);
    }
  }
  return archive.end();
}

/** `a`, `a/b`, `a/b/c`. */
function partsOf(path: string): string[] {
  const parts = path.split('/');
  return parts.map((_, index) => parts.slice(0, index + 1).join('/'));
}

/** cpio of the form `newc`: Documentation/driver-api/early-userspace/buffer-format.rst. */
class Archive {
  readonly #parts: Buffer[] = [];
  #inode = 1;

  add(name: string, mode: number, content: Buffer = Buffer.alloc(0)): void {
    const fields = [
      ...[this.#inode++, mode, 0, 0, 1, 0, content.length],
      ...[0, 0, 0, 0, name.length + 1, 0],
    ];
    const head = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    this.#parts.push(padded(Buffer.from(head)), padded(content));
  }

  end(): Buffer {
    this.add('TRAILER!!!', 0);
    return Buffer.concat(this.#parts);
  }
}

function padded(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)]);
}
