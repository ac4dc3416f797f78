import { nevra } from '../../packages/rpm/dependency.ts';
import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';

/** The kernel's own number (MAXSYMLINKS): more count as a loop. */
const MAX_LINKS = 40;

export interface PlannedDirectory {
  readonly kind: 'directory';
  readonly path: string;
  readonly children: Map<string, PlannedNode>;
  owner: OwnedFile | null;
}

export interface PlannedLeaf {
  readonly kind: 'leaf';
  readonly path: string;
  readonly owner: OwnedFile;
}

export type PlannedNode = PlannedDirectory | PlannedLeaf;

/** What packages make of an empty root, in this order. Links stay inside the root, as for rpm. */
export class TreePlan {
  readonly root: PlannedDirectory = directory('/');
  readonly problems: string[] = [];
  readonly shared = new Set<RpmFile>();
  needsOwners = false;
  readonly #found = new Map<string, PlannedDirectory>();

  add(added: RpmPackage): void {
    let folder: string | undefined;
    let holder: PlannedDirectory | undefined;
    for (const file of added.files) {
      if (file.flags.includes('ghost')) continue;
      const { path } = file;
      const end = path.lastIndexOf('/');
      if (folder?.length !== end || !path.startsWith(folder)) {
        folder = path.slice(0, end);
        holder = this.#directoryAt(folder === '' ? '/' : folder, true);
      }
      const owner = { package: added, file };
      if (holder !== undefined) {
        this.#addFile(holder, path.slice(end + 1), owner);
      } else {
        this.problems.push(`${nevra(added)}: ${folder}, the folder of ${path}, is not a folder`);
      }
    }
  }

  find(path: string): PlannedNode | undefined {
    const at = path.lastIndexOf('/');
    const name = path.slice(at + 1);
    const holder = this.#directoryAt(path.slice(0, Math.max(at, 1)), false);
    return name === '' ? holder : holder?.children.get(name);
  }

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
      const both = `${nevra(owner.package)} and ${nevra(present.owner.package)}`;
      this.problems.push(`file ${owner.file.path} conflicts between attempted installs of ${both}`);
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

  #directoryAt(path: string, make: boolean): PlannedDirectory | undefined {
    const known = this.#found.get(path);
    if (known !== undefined) return known;
    const found = this.#walk(path, make);
    if (found !== undefined) this.#found.set(path, found);
    return found;
  }

  #walk(path: string, make: boolean): PlannedDirectory | undefined {
    let at: PlannedDirectory[] = [this.root];
    const rest = path.split('/').reverse();
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

/** The store's inodes are root's. */
export function needsOwner(file: RpmFile | undefined): boolean {
  return file !== undefined && (file.owner !== 'root' || file.group !== 'root');
}

function directory(path: string): PlannedDirectory {
  return { kind: 'directory', path, children: new Map(), owner: null };
}

function join(directoryPath: string, name: string): string {
  return directoryPath === '/' ? `/${name}` : `${directoryPath}/${name}`;
}

export interface OwnedFile {
  readonly package: RpmPackage;
  readonly file: RpmFile;
}

/** rpm's own rule (rpmfilesCompare in lib/rpmfi.c). A link may lead from one path to the other. */
function filesConflict(a: OwnedFile, b: OwnedFile): boolean {
  const bothLinks = a.file.type === 'symlink' && b.file.type === 'symlink';
  if (!bothLinks && a.file.mode !== b.file.mode) return true;
  if (a.file.owner !== b.file.owner || a.file.group !== b.file.group) return true;
  if (bothLinks) return a.file.linkTarget !== b.file.linkTarget;
  if (a.file.type === 'file') return a.file.size !== b.file.size || digestOf(a) !== digestOf(b);
  if (a.file.type === 'char' || a.file.type === 'block') return a.file.rdev !== b.file.rdev;
  return false;
}

function digestOf({ package: from, file }: OwnedFile): string {
  return `${from.fileDigestAlgorithm}:${file.digest ?? ''}`;
}
