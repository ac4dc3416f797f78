/** What a machine boots: the kernel and an initramfs, made once and kept by their digest. */
import { hash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  type Stats,
  statSync,
  utimesSync,
} from 'node:fs';
import { rename } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { closing } from '../../../host/calls/descriptor.ts';
import { attempt, hasErrno } from '../../../host/calls/libc.ts';
import { askConfined } from '../../../host/confine/run.ts';
import { heldParts } from '../../../host/files/held.ts';
import { removeTree } from '../../../host/files/remove-tree.ts';
import { packageRoot } from '../../../host/state/package-root.ts';
import type { StatePaths } from '../../../host/state/paths.ts';
import { awaitedLater } from '../../../promise.ts';
import type { GuestKernel } from '../../policy/guest-kernel.ts';
import { INIT_PATH, LAYOUT, MOUNT_POINTS, requireInit, requirePassable } from '../skeleton.ts';
import type { BootInput } from './boot-task.ts';
import { findKernel, givenKernel, IMAGE_MAX } from './kernel.ts';
import { openImageKernel } from './kernel-of-image.ts';

export interface BootFiles {
  /** Names this kernel and initramfs; its folder has both. */
  readonly folder: string;
  readonly kernel: string;
  readonly initramfs: string;
  readonly release: string;
}

export const KERNEL = 'vmlinux';
const INITRAMFS = 'initramfs';

export function machineProgram(name: 'kiln-relay' | 'kiln-stage0'): { path: string; stat: Stats } {
  const path = join(packageRoot(), 'dist', name);
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat !== undefined) return { path, stat };
  throw new KilnError('E_NO_GUEST_INIT', `${name} has not been compiled`, {
    hint: 'run `scripts/quickstart`, or `npm run build` where a C compiler and a static C library are',
  });
}

let making: Promise<BootFiles> | undefined;

/** A kernel's file, or what an image has in its tree. */
export type WantedKernel = string | (GuestKernel & { readonly tree: string });

/** @param wanted instead of the newest of the host's @throws KilnError E_MACHINE_KERNEL, E_NO_GUEST_INIT */
export async function ensureBootFiles(
  paths: StatePaths,
  wanted?: WantedKernel,
): Promise<BootFiles> {
  if (typeof wanted === 'string') return await ensure(paths, givenKernel(wanted));
  if (wanted !== undefined) {
    using kernel = openImageKernel(wanted.tree, wanted);
    return await ensure(paths, kernel);
  }
  making ??= awaitedLater(
    ensure(paths, findKernel()).finally(() => {
      making = undefined;
    }),
  );
  return await making;
}

async function ensure(paths: StatePaths, kernel: GuestKernel): Promise<BootFiles> {
  const folder = bootFolder(paths, kernel);
  // libvirt's XML gets a path without characters that could be misread.
  const seen = join(paths.link, relative(paths.root, folder));
  const files = { folder, kernel: join(seen, KERNEL), initramfs: join(seen, INITRAMFS) };
  if (existsSync(folder)) attempt(() => utimesSync(folder, new Date(), new Date()));
  else await make(paths, kernel, folder);
  requirePassable(paths.root);
  return { ...files, release: kernel.release };
}

/** Where they are, or would be. @throws KilnError E_NO_GUEST_INIT */
export function bootFolder(paths: StatePaths, kernel: GuestKernel): string {
  const sources = [requireInit().path, machineProgram('kiln-stage0').path, kernel.image];
  // Size and time stand for the content, which would take long to read; the name of what is held open says nothing.
  const modules = [...kernel.modules, ...kernel.imageModules].map(({ path }) => path);
  const key = [...sources, ...modules].map((path) => {
    const { dev, ino, size, mtimeMs } = statSync(path);
    const name = heldParts(path) === undefined ? path : `${dev} ${ino}`;
    return `${name} ${size} ${Math.floor(mtimeMs)}`;
  });
  return join(paths.machines, hash('sha256', [LAYOUT, ...key].join('\n')).slice(0, 16));
}

/** In the name of what is not whole yet. */
export const HALF = '.new-';

/** Whole or not there, also after a power cut: its folder gets its name last. */
async function make(paths: StatePaths, kernel: GuestKernel, folder: string): Promise<void> {
  mkdirSync(paths.machines, { recursive: true, mode: 0o711 });
  for (const above of [paths.root, paths.machines]) chmodSync(above, statSync(above).mode | 0o111);
  const half = mkdtempSync(`${folder}${HALF}`);
  try {
    chmodSync(half, 0o711);
    await fill(half, kernel);
    await rename(half, folder);
  } catch (error) {
    await removeTree(half);
    // Another kiln has made it first.
    if (!hasErrno(error, 'EEXIST', 'ENOTEMPTY')) throw error;
  }
}

/** Whatever packed it, kernel and modules are unpacked in a confined child, which has these files alone. */
async function fill(folder: string, kernel: GuestKernel): Promise<void> {
  using opened = new DisposableStack();
  const open = (path: string, flags: string) =>
    opened.use(closing(openSync(path, flags, 0o644))).fd;
  // qemu reads them, as a user of its own; nothing in them is secret.
  const made = [KERNEL, INITRAMFS].map((name) => open(join(folder, name), 'wx'));
  const modules = Object.entries({
    modules: kernel.modules,
    'modules-of-images': kernel.imageModules,
  });
  const folders = [...modules.map(([name]) => name), ...MOUNT_POINTS.map((it) => `skeleton/${it}`)];
  const packed = [
    ...[kernel.image, machineProgram('kiln-stage0').path, requireInit().path],
    ...modules.flatMap(([, files]) => files.map(({ path }) => path)),
  ];
  const input: BootInput = {
    folders: [...new Set(folders.flatMap(partsOf))],
    init: `skeleton${INIT_PATH}`,
    modules: modules.flatMap(([folder, files]) =>
      files.map(({ name }, nth) => placeOf(folder, name, nth)),
    ),
  };
  const fds = [...made, ...packed.map((path) => open(path, 'r'))];
  await askConfined({
    ...{ task: 'machine-boot', input, fds, limits: { fileSize: 2 * IMAGE_MAX } },
    validate: (value) => z.literal('made').parse(value),
  });
  for (const fd of [...made, open(folder, 'r')]) fsyncSync(fd);
}

/** Its name begins with the order in which stage 0 loads it. */
function placeOf(folder: string, module: string, nth: number): string {
  return `${folder}/${String(nth).padStart(2, '0')}-${module}`;
}

/** `a`, `a/b`, `a/b/c`. */
function partsOf(path: string): string[] {
  const parts = path.split('/');
  return parts.map((_, index) => parts.slice(0, index + 1).join('/'));
}
