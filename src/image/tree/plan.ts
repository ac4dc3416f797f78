import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';
import { filesConflict, nevra, type OwnedFile } from './path.ts';

/** More links on the way to a directory count as a loop: the kernel's own number (MAXSYMLINKS). */
const MAX_LINKS = 40;

/** A directory of the planned image. */
export interface PlannedDirectory {
  readonly kind: 'directory';
  /** Canonical path in the image: no component of it is a link. */
  readonly path: string;
  readonly children: Map<string, PlannedNode>;
  /** The package file that describes it; null for a directory that only lies on the way. */
  owner: OwnedFile | null;
}

/** An entry that is not a directory. */
export interface PlannedLeaf {
  readonly kind: 'leaf';
  readonly path: string;
  readonly owner: OwnedFile;
}

export type PlannedNode = PlannedDirectory | PlannedLeaf;

/**
 * The tree that a list of packages makes when they are installed into an empty root in this order, computed
 * without a disk. Links are followed inside the root, as rpm follows them.
 */
export class TreePlan {
  readonly root: PlannedDirectory = directory('/');
  /** File conflicts and broken paths in rpm's words; empty if all is well. */
  readonly problems: string[] = [];
  /** Files that are left out because an earlier package has the same file. */
  readonly shared = new Set<RpmFile>();
  /** Whether an entry belongs to another user than root. */
  needsOwners = false;
  /** Directories by path: what a path leads to does not change. */
  readonly #found = new Map<string, PlannedDirectory>();

  /** Adds a package's files. Ghosts are left out, because they are not files. */
  add(added: RpmPackage): void {
    let folder: string | undefined;
    let holder: PlannedDirectory | undefined;
    for (const file of added.files) {
      if (file.flags.includes('ghost')) continue;
      const { path } = file;
      const end = path.lastIndexOf('/');
      // Files of a folder follow each other.
      if (folder?.length !== end || !path.startsWith(folder)) {
        folder = path.slice(0, end);
        holder = this.#directoryAt(folder === '' ? '/' : folder, true);
      }
      const owner = { package: added, file };
      if (holder !== undefined) {
        this.#addFile(holder, path.slice(end + 1), owner);
      } else {
        this.problems.push(`${nevra(added)}: ${folder}, the folder of ${path}, is no folder`);
      }
    }
  }

  /** The node at an absolute path, with links on the way followed, but not a link at the end. */
  find(path: string): PlannedNode | undefined {
    const [parent, name] = split(path);
    const holder = this.#directoryAt(parent, false);
    return name === '' ? holder : holder?.children.get(name);
  }

  /** All directories, parents first. */
  directories(): PlannedDirectory[] {
    const found = [this.root];
    for (const { children } of found) {
      for (const child of children.values()) if (child.kind === 'directory') found.push(child);
    }
    return found;
  }

  #addFile(holder: PlannedDirectory, name: string, owner: OwnedFile): void {
    if (name === '') {
      if (this.root.owner === null) this.#own(this.root, owner);
      return;
    }
    const present = holder.children.get(name);
    if (present === undefined) {
      holder.children.set(name, planned(holder, name, owner));
      if (needsOwner(owner.file)) this.needsOwners = true;
    } else if (present.owner !== null && filesConflict(present.owner, owner)) {
      this.#conflict(present.owner, owner);
    } else if (present.owner !== null) {
      this.shared.add(owner.file);
    } else if (present.kind === 'directory' && owner.file.type === 'directory') {
      this.#own(present, owner);
    } else {
      this.problems.push(`${nevra(owner.package)}: ${owner.file.path} is already a folder`);
    }
  }

  #own(directory: PlannedDirectory, owner: OwnedFile): void {
    directory.owner = owner;
    if (needsOwner(owner.file)) this.needsOwners = true;
  }

  #conflict(first: OwnedFile, second: OwnedFile): void {
    this.problems.push(
      `file ${second.file.path} conflicts between attempted installs of ` +
        `${nevra(second.package)} and ${nevra(first.package)}`,
    );
  }

  /**
   * The directory at `path`. With `make`, missing parts of `path` itself are made; the target of a link on the
   * way must exist, as for rpm.
   */
  #directoryAt(path: string, make: boolean): PlannedDirectory | undefined {
    // Files of a folder follow each other.
    const known = this.#found.get(path);
    if (known !== undefined) return known;
    const found = this.#walk(path, make);
    if (found !== undefined) this.#found.set(path, found);
    return found;
  }

  #walk(path: string, make: boolean): PlannedDirectory | undefined {
    let at: PlannedDirectory[] = [this.root];
    const rest = path.split('/').reverse();
    // How many entries at the start of `rest` belong to the path itself.
    let own = rest.length;
    for (let links = 0; rest.length > 0; own = Math.min(own, rest.length)) {
      const name = rest.pop()!;
      if (name === '' || name === '.') continue;
      if (name === '..') {
        if (at.length > 1) at.pop();
        continue;
      }
      const here: PlannedDirectory = at.at(-1)!;
      let next = here.children.get(name);
      if (next === undefined) {
        if (!make || rest.length >= own) return undefined;
        next = directory(join(here.path, name));
        here.children.set(name, next);
      }
      if (next.kind === 'directory') {
        at.push(next);
        continue;
      }
      const target = next.owner.file.linkTarget;
      if (target === null || ++links > MAX_LINKS) return undefined;
      if (target.startsWith('/')) at = [this.root];
      own = Math.min(own, rest.length);
      rest.push(...target.split('/').reverse());
    }
    return at.at(-1);
  }
}

function planned(holder: PlannedDirectory, name: string, owner: OwnedFile): PlannedNode {
  // If no link leads there, the path is the package's own text, and no other string is needed.
  const said = owner.file.path;
  const same = said.length === holder.path.length + name.length + 1 && said.startsWith(holder.path);
  const path = same ? said : join(holder.path, name);
  if (owner.file.type !== 'directory') return { kind: 'leaf', path, owner };
  return { kind: 'directory', path, children: new Map(), owner };
}

/** Whether the file belongs to another user than root; the store's inodes are root's. */
export function needsOwner(file: RpmFile | undefined): boolean {
  return file !== undefined && (file.owner !== 'root' || file.group !== 'root');
}

function directory(path: string): PlannedDirectory {
  return { kind: 'directory', path, children: new Map(), owner: null };
}

function join(directoryPath: string, name: string): string {
  return directoryPath === '/' ? `/${name}` : `${directoryPath}/${name}`;
}

/** Folder and last component of an absolute path; the root is `['/', '']`. */
function split(path: string): [string, string] {
  const at = path.lastIndexOf('/');
  return [at === 0 ? '/' : path.slice(0, at), path.slice(at + 1)];
}
