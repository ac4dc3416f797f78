import { chmodSync, closeSync, constants, mkdirSync, openSync } from 'node:fs';
import {
  mkdirat,
  mkfifoat,
  type OpenHow,
  openat2,
  openDirectory,
  openPath,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
} from '../../kernel/at.ts';
import { awaitedLater } from '../../promise.ts';
import { callName } from '../../rpm/filename.ts';
import type { RpmFile, RpmPackage } from '../../rpm/package.ts';
import { span } from '../../trace/trace.ts';
import { Copies, PERMISSIONS, SET_ID_BITS } from './copies.ts';
import type { FolderFinisher } from './folder-finisher.ts';
import { type FolderJob, link, setModeAndTime } from './folder-jobs.ts';
import { needsOwner, type PlannedDirectory, type PlannedLeaf, type TreePlan } from './plan.ts';
import { Turns } from './turns.ts';

/** A path whose owner is known by name only until the image has users. */
export interface DeferredOwner {
  /** Canonical path in the image. */
  readonly path: string;
  readonly file: RpmFile;
  readonly package: RpmPackage;
  /** `security.capability`, which a change of owner takes away. */
  readonly capability?: Buffer;
}

/** What {@link composeTree} did. */
export interface Composition {
  readonly directories: number;
  readonly linked: number;
  readonly copied: number;
  /** Of all files; hard links count once. */
  readonly bytes: number;
  /** Of the files that are copies. */
  readonly copiedBytes: number;
  /** What could not be made. */
  readonly warnings: readonly string[];
  /** In plan order. For now these belong to root and have no set-id bits. */
  readonly deferred: readonly DeferredOwner[];
}

/**
 * Makes the planned tree in the new folder `destination`; `treeOf` tells where a package is
 * unpacked. Files are hard links to the package
 * store; what will need another owner than the store's inode has, or has too many links already
 * (EMLINK), is a copy of its own. The finisher is disposed of.
 */
export async function composeTree(
  plan: TreePlan,
  destination: string,
  finisher: FolderFinisher,
  treeOf: (of: RpmPackage) => string,
): Promise<Composition> {
  using _ = span('compose the tree');
  mkdirSync(destination, { mode: 0o755 });
  const composer = new Composer(finisher, treeOf);
  try {
    const root = openSync(destination, constants.O_RDONLY | constants.O_DIRECTORY);
    await composer.fill(plan.root, root);
    await composer.finish();
  } finally {
    // It uses descriptors that are closed then.
    await finisher[Symbol.asyncDispose]();
    composer.close();
  }
  return composer;
}

/** The open folders of packages that make up one folder: its name in the package, and descriptor. */
type Sources = Map<RpmPackage, readonly { readonly directory: string; readonly fd: number }[]>;

/** A folder of the tree that lacks nothing but what its job says. */
interface Filled {
  readonly planned: PlannedDirectory;
  readonly sources: Sources;
  readonly job: FolderJob;
}

/** Links and folders that are finished at once: half a millisecond's work, and as many open folders at most. */
const BATCH = 128;

/** No link is followed: whatever went wrong while unpacking, nothing outside gets in. */
const INSIDE: OpenHow = {
  flags: constants.O_RDONLY | constants.O_DIRECTORY,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
};

class Composer implements Composition {
  directories = 1;
  linked = 0;
  copied = 0;
  bytes = 0;
  copiedBytes = 0;
  readonly warnings: string[] = [];
  readonly deferred: DeferredOwner[] = [];
  readonly #treeOf: (of: RpmPackage) => string;
  readonly #roots = new Map<RpmPackage, number>();
  readonly #copies = new Copies();
  readonly #finisher: FolderFinisher;
  readonly #turns = new Turns();
  /** What is next for the finisher, and how many links and folders that is. */
  #batch: Filled[] = [];
  #batched = 0;
  readonly #finishing: Promise<void>[] = [];
  #failure: { readonly error: unknown } | undefined;
  /** Directories of the tree and of packages. */
  readonly #open = new Set<number>();

  constructor(finisher: FolderFinisher, treeOf: (of: RpmPackage) => string) {
    this.#finisher = finisher;
    this.#treeOf = treeOf;
  }

  /** Makes everything below `planned` in the open directory `target`, which is closed once it is finished. */
  async fill(planned: PlannedDirectory, target: number): Promise<void> {
    this.#open.add(target);
    await this.#turns.next();
    if (needsOwner(planned.owner?.file)) {
      this.deferred.push({ path: planned.path, ...planned.owner! });
    }
    const sources: Sources = new Map();
    const links = new Map<number, string[]>();
    for (const [name, child] of planned.children) {
      const entry = callName(name);
      if (child.kind === 'leaf') {
        this.#place(child, entry, target, sources, links);
        continue;
      }
      mkdirat(target, entry, 0o700);
      this.directories++;
      await this.fill(child, openDirectory(target, entry));
    }
    this.#batched++;
    for (const names of links.values()) {
      this.#batched += names.length;
      this.linked += names.length;
    }
    const joined = [...links].map(([source, names]) => ({ source, names: names.join('/') }));
    const job = {
      target,
      links: joined,
      mode: directoryMode(planned),
      time: packagedTime(planned),
    };
    this.#batch.push({ planned, sources, job });
    if (this.#batched >= BATCH) this.#finishBatch();
  }

  /** Waits until all folders are finished. */
  async finish(): Promise<void> {
    this.#finishBatch();
    await Promise.all(this.#finishing);
  }

  close(): void {
    for (const directory of this.#open) closeSync(directory);
    for (const root of this.#roots.values()) closeSync(root);
    this.#copies.close();
  }

  #finishBatch(): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    const finishing = awaitedLater(this.#finishFolders(this.#batch));
    // It is told with the next batch.
    finishing.catch((error: unknown) => {
      this.#failure ??= { error };
    });
    this.#finishing.push(finishing);
    this.#batch = [];
    this.#batched = 0;
  }

  async #finishFolders(folders: readonly Filled[]): Promise<void> {
    const refused = await this.#finisher.finish(folders.map(({ job }) => job));
    for (const { job: index, source, name } of refused) {
      const { planned, job } = folders[index]!;
      this.linked--;
      this.#copyLeaf(planned.children.get(name) as PlannedLeaf, source, job.target, name);
      setModeAndTime(job.target, job);
    }
    for (const { sources, job } of folders) {
      for (const opened of sources.values()) for (const { fd } of opened) this.#close(fd);
      this.#close(job.target);
    }
  }

  #close(directory: number): void {
    this.#open.delete(directory);
    closeSync(directory);
  }

  #place(
    leaf: PlannedLeaf,
    name: Buffer | string,
    target: number,
    sources: Sources,
    links: Map<number, string[]>,
  ): void {
    const { package: from, file } = leaf.owner;
    if (file.type !== 'file' && file.type !== 'symlink') {
      this.#special(leaf, name, target);
      return;
    }
    const source = this.#source(from, file, sources);
    if (file.type === 'file') this.bytes += file.size / file.nlink;
    if (needsOwner(file)) {
      this.#copyLeaf(leaf, source, target, name);
    } else if (typeof name === 'string') {
      const names = links.get(source);
      if (names === undefined) links.set(source, [name]);
      else names.push(name);
    } else if (link(source, target, name)) {
      this.linked++;
    } else {
      this.#copyLeaf(leaf, source, target, name);
    }
  }

  #copyLeaf(leaf: PlannedLeaf, source: number, target: number, name: Buffer | string): void {
    const { package: from, file } = leaf.owner;
    const capability = this.#copies.copy(file, from, source, target, name);
    this.copied++;
    if (file.type === 'file') this.copiedBytes += file.size / file.nlink;
    if (!needsOwner(file)) return;
    const caps = capability === undefined ? {} : { capability };
    this.deferred.push({ path: leaf.path, ...leaf.owner, ...caps });
  }

  /** Unpacking leaves these out. A fifo can be made; of devices and sockets a box has its own. */
  #special(leaf: PlannedLeaf, name: Buffer | string, target: number): void {
    const { file } = leaf.owner;
    if (file.type !== 'fifo') {
      this.warnings.push(`${file.path} is a ${file.type}: left out`);
      return;
    }
    mkfifoat(target, name, 0o600);
    const made = openPath(target, name);
    try {
      // An O_PATH descriptor has no fchmod; the umask does not count this way either.
      chmodSync(`/proc/self/fd/${made}`, file.mode & 0o777);
    } finally {
      closeSync(made);
    }
    if (needsOwner(file)) this.deferred.push({ path: leaf.path, ...leaf.owner });
  }

  /** The open folder of the unpacked package that holds `file`. */
  #source(from: RpmPackage, file: RpmFile, sources: Sources): number {
    const end = Math.max(1, file.path.lastIndexOf('/'));
    const known = sources.get(from);
    // A package rarely comes to a folder by two names (/lib and /usr/lib).
    const found = known?.find(
      ({ directory }) => directory.length === end - 1 && file.path.startsWith(directory, 1),
    );
    if (found !== undefined) return found.fd;
    let root = this.#roots.get(from);
    if (root === undefined) {
      root = openSync(this.#treeOf(from), constants.O_RDONLY | constants.O_DIRECTORY);
      this.#roots.set(from, root);
    }
    const directory = file.path.slice(1, end);
    const fd = openat2(root, callName(directory === '' ? '.' : directory), INSIDE);
    this.#open.add(fd);
    sources.set(from, [...(known ?? []), { directory, fd }]);
    return fd;
  }
}

/** The time its package says, seconds since 1970; null for a directory that no package describes. */
export function packagedTime({ owner }: PlannedDirectory): number | null {
  return owner?.file.mtime ?? null;
}

/** A directory that no package describes is as rpm makes it. */
function directoryMode(planned: PlannedDirectory): number {
  if (planned.owner === null) return 0o755;
  const mode = planned.owner.file.mode & PERMISSIONS;
  return needsOwner(planned.owner.file) ? mode & ~SET_ID_BITS : mode;
}
