import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  fchmodSync,
  futimesSync,
  mkdirSync,
} from 'node:fs';
import { closing, getXattr, setXattr } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import {
  AT_FDCWD,
  DIRECTORY_BELOW,
  type FileTimes,
  linkat,
  mkdirat,
  mkfifoat,
  NEW_FILE,
  openat2,
  openDirectory,
  openPath,
  setTimes,
  symlinkat,
} from '../../host/files/at.ts';
import { span } from '../../host/trace/trace.ts';
import { callName, encodeName } from '../../packages/rpm/filename.ts';
import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';
import {
  needsOwner,
  type OwnedFile,
  type PlannedDirectory,
  type PlannedLeaf,
  type TreePlan,
} from './plan.ts';

export interface DeferredOwner extends OwnedFile {
  readonly path: string;
  readonly capability?: Buffer;
}

export interface Composition {
  readonly bytes: number;
  readonly copiedBytes: number;
  /** Paths of files that are no links into the store. */
  readonly copied: readonly string[];
  readonly warnings: readonly string[];
  readonly deferred: readonly DeferredOwner[];
}

/**
 * Files are hard links into the package store, or copies if they will need another owner than the store's
 * inode, or that has too many links already.
 * @param destination new
 * @param treeOf where a package is unpacked
 */
export function composeTree(
  plan: TreePlan,
  destination: string,
  treeOf: (of: RpmPackage) => string,
): Composition {
  using _ = span('compose the tree');
  mkdirSync(destination, { mode: 0o755 });
  using composer = new Composer(treeOf);
  composer.fill(plan.root, openDirectory(AT_FDCWD, destination));
  return composer;
}

type Sources = Map<RpmPackage, readonly { readonly directory: string; readonly fd: number }[]>;

class Composer implements Composition, Disposable {
  bytes = 0;
  copiedBytes = 0;
  readonly copied: string[] = [];
  readonly warnings: string[] = [];
  readonly deferred: DeferredOwner[] = [];
  readonly #treeOf: (of: RpmPackage) => string;
  readonly #roots = new Map<RpmPackage, number>();
  readonly #opened = new DisposableStack();
  readonly #copies = new Map<string, Copy>();

  constructor(treeOf: (of: RpmPackage) => string) {
    this.#treeOf = treeOf;
  }

  /** Closes `target`. */
  fill(planned: PlannedDirectory, target: number): void {
    const sources: Sources = new Map();
    try {
      if (needsOwner(planned.owner?.file)) {
        this.deferred.push({ path: planned.path, ...planned.owner! });
      }
      for (const [name, child] of planned.children) {
        const entry = callName(name);
        if (child.kind === 'leaf') {
          this.#place(child, entry, target, sources);
          continue;
        }
        mkdirat(target, entry, 0o700);
        this.fill(child, openDirectory(target, entry));
      }
      // Set last, because making entries needs rights and changes the time.
      fchmodSync(target, directoryMode(planned));
      const time = packagedTime(planned);
      if (time !== null) futimesSync(target, time, time);
    } finally {
      for (const opened of sources.values()) for (const { fd } of opened) closeSync(fd);
      closeSync(target);
    }
  }

  [Symbol.dispose](): void {
    this.#opened.dispose();
  }

  #place(leaf: PlannedLeaf, name: Buffer | string, target: number, sources: Sources): void {
    const { package: from, file } = leaf.owner;
    if (file.type !== 'file' && file.type !== 'symlink') {
      this.#special(leaf, name, target);
      return;
    }
    const source = this.#source(from, file, sources);
    if (file.type === 'file') this.bytes += file.size / file.nlink;
    if (needsOwner(file) || !link(source, target, name)) this.#copyLeaf(leaf, source, target, name);
  }

  #copyLeaf(leaf: PlannedLeaf, source: number, target: number, name: Buffer | string): void {
    const { file } = leaf.owner;
    const capability = this.#copy(leaf.owner, source, target, name);
    if (file.type === 'file') {
      this.copiedBytes += file.size / file.nlink;
      this.copied.push(leaf.path);
    }
    if (!needsOwner(file)) return;
    const caps = capability === undefined ? {} : { capability };
    this.deferred.push({ path: leaf.path, ...leaf.owner, ...caps });
  }

  /** @returns the file's capabilities */
  #copy(
    { package: from, file }: OwnedFile,
    source: number,
    target: number,
    name: Buffer | string,
  ): Buffer | undefined {
    const time = BigInt(file.mtime) * NANOSECONDS;
    const times = { atimeNs: time, mtimeNs: time };
    if (file.type === 'symlink') {
      symlinkat(encodeName(file.linkTarget ?? ''), target, name);
      setTimes(target, times, name);
      return undefined;
    }
    const inode = `${from.name} ${from.arch} ${file.device} ${file.inode}`;
    const twin = file.nlink > 1 ? this.#copies.get(inode) : undefined;
    if (twin !== undefined) {
      linkat(twin.directory, twin.name, target, name);
      return twin.capability;
    }
    const capability = copyFile(source, target, name, file, times);
    if (file.nlink > 1) {
      const directory = this.#opened.adopt(openDirectory(target, '.'), closeSync);
      this.#copies.set(inode, { directory, name, capability });
    }
    return capability;
  }

  #special(leaf: PlannedLeaf, name: Buffer | string, target: number): void {
    const { file } = leaf.owner;
    if (file.type !== 'fifo') {
      this.warnings.push(`${file.path} is a ${file.type}: left out`);
      return;
    }
    mkfifoat(target, name, 0o600);
    using made = closing(openPath(target, name));
    // An O_PATH descriptor has no fchmod; the umask does not apply here either.
    chmodSync(`/proc/self/fd/${made.fd}`, file.mode & 0o777);
    if (needsOwner(file)) this.deferred.push({ path: leaf.path, ...leaf.owner });
  }

  #source(from: RpmPackage, file: RpmFile, sources: Sources): number {
    const end = Math.max(1, file.path.lastIndexOf('/'));
    const known = sources.get(from);
    // A package rarely names a folder in two ways (/lib and /usr/lib).
    const found = known?.find(
      ({ directory }) => directory.length === end - 1 && file.path.startsWith(directory, 1),
    );
    if (found !== undefined) return found.fd;
    let root = this.#roots.get(from);
    if (root === undefined) {
      root = this.#opened.adopt(openDirectory(AT_FDCWD, this.#treeOf(from)), closeSync);
      this.#roots.set(from, root);
    }
    const directory = file.path.slice(1, end);
    // No link is followed, so nothing from outside gets in even if unpacking went wrong.
    const fd = openat2(root, callName(directory === '' ? '.' : directory), DIRECTORY_BELOW);
    sources.set(from, [...(known ?? []), { directory, fd }]);
    return fd;
  }
}

/** Seconds since 1970; null for a directory that no package describes. */
export function packagedTime({ owner }: PlannedDirectory): number | null {
  return owner?.file.mtime ?? null;
}

function directoryMode(planned: PlannedDirectory): number {
  if (planned.owner === null) return 0o755;
  const mode = planned.owner.file.mode & PERMISSIONS;
  return needsOwner(planned.owner.file) ? mode & ~SET_ID_BITS : mode;
}

function link(source: number, target: number, name: Buffer | string): boolean {
  const linked = unlessErrno(['EMLINK'], () => {
    linkat(source, name, target, name);
    return true;
  });
  return linked === true;
}

const NANOSECONDS = 1_000_000_000n;
const PERMISSIONS = 0o7777;
const SET_ID_BITS = 0o6000;

interface Copy {
  readonly directory: number;
  readonly name: Buffer | string;
  readonly capability: Buffer | undefined;
}

function copyFile(
  source: number,
  target: number,
  name: Buffer | string,
  file: RpmFile,
  times: FileTimes,
): Buffer | undefined {
  using input = closing(
    openat2(source, name, { flags: constants.O_RDONLY | constants.O_NOFOLLOW }),
  );
  using output = closing(openat2(target, name, NEW_FILE));
  // Shares the blocks where the file system can (btrfs, xfs); otherwise copies them.
  copyFileSync(
    `/proc/self/fd/${input.fd}`,
    `/proc/self/fd/${output.fd}`,
    constants.COPYFILE_FICLONE,
  );
  fchmodSync(output.fd, file.mode & PERMISSIONS & ~SET_ID_BITS);
  const capability = getXattr(input.fd, 'security.capability');
  if (capability !== undefined) setXattr(output.fd, 'security.capability', capability);
  setTimes(output.fd, times);
  return capability;
}
