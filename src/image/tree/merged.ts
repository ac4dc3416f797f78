/**
 * What layers above each other show, without mounting them. Names are merged as overlayfs merges them: the topmost entry
 * counts, a whiteout (character device 0:0) hides what is below, and so does an opaque folder. Layers may be hostile: names
 * are looked up one by one below open folders, and nothing is followed.
 */
import { type BigIntStats, fstatSync } from 'node:fs';
import type { Budget } from '../../artifacts/budget.ts';
import { type ByteString, toBytes } from '../../artifacts/byte-string.ts';
import { listEntries } from '../../artifacts/source.ts';
import { closing, getXattr } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { FILE_ITSELF, openat2, openPath } from '../../host/files/at.ts';

/** Folders of layers, the topmost layer first. */
export type Stack = readonly number[];

/** What opening a name comes to that shows something else by now, or is closed. */
const GONE = ['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO', 'EACCES'];

export interface Shown {
  readonly fd: number;
  /** Where it lies. */
  readonly folder: number;
  readonly name: ByteString;
  readonly stats: BigIntStats;
  /** Of a folder, what is merged in it. */
  readonly parts: Stack;
}

/** Sorted; {@link look} tells what of them is shown. @throws KilnError E_ARTIFACT_LIMIT, SyscallError */
export function namesIn(parts: Stack, budget: Budget): ByteString[] {
  const names = new Set<ByteString>();
  for (const fd of parts) for (const { name } of listEntries(fd, budget)) names.add(name);
  return [...names].sort();
}

/** What is shown at a path. */
export function lookAt(stack: Stack, path: ByteString, open: DisposableStack): Shown | undefined {
  let parts = stack;
  let shown: Shown | undefined;
  for (const name of path.split('/')) {
    shown = look(parts, name, open);
    if (shown === undefined) return undefined;
    parts = shown.parts;
  }
  return shown;
}

/** As overlayfs merges it; `open` closes what is opened for it. */
export function look(parts: Stack, name: ByteString, open: DisposableStack): Shown | undefined {
  const folders: number[] = [];
  let top: Omit<Shown, 'parts'> | undefined;
  for (const folder of parts) {
    const absent = ['ENOENT', 'ENOTDIR', 'ENAMETOOLONG'];
    const entry = unlessErrno(absent, () => open.use(closing(openPath(folder, toBytes(name)))));
    if (entry === undefined) continue;
    const { fd } = entry;
    const stats = fstatSync(fd, { bigint: true });
    if (stats.isCharacterDevice() && stats.rdev === 0n) break;
    if (!stats.isDirectory()) {
      // Below a folder, it is hidden.
      top ??= { fd, folder, name, stats };
      break;
    }
    top ??= { fd, folder, name, stats };
    folders.push(fd);
    if (isOpaque(fd)) break;
  }
  return top && { ...top, parts: folders };
}

function isOpaque(folder: number): boolean {
  using opened = unlessErrno(GONE, () => closing(openat2(folder, '.', FILE_ITSELF)));
  return opened !== undefined && getXattr(opened.fd, 'user.overlay.opaque')?.toString() === 'y';
}

/** Undefined where something else lies there by now. */
export function reopen({ folder, name, stats }: Shown) {
  const file = unlessErrno(GONE, () => closing(openat2(folder, toBytes(name), FILE_ITSELF)));
  if (file === undefined || fstatSync(file.fd, { bigint: true }).ino === stats.ino) return file;
  file[Symbol.dispose]();
  return undefined;
}
