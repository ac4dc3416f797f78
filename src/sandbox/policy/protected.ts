/**
 * What a command that may write a folder of its caller could leave there for the caller's own tools to run later: git
 * runs hooks and what its configuration names, direnv and editors run what these files say. Sources: githooks(5),
 * git-config(1), gitrepository-layout(5), direnv(1).
 */
import { fstatSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { openPath, statAt } from '../../host/files/at.ts';
import { heldPath } from '../../host/files/held.ts';
import { openBind } from './host-write.ts';
import type { Bind } from './specification.ts';

/** Read-only below each writable bind, unless the caller says otherwise. */
export const PROTECTED = [
  ...['.git/hooks', '.git/config', '.git/config.worktree', '.git/commondir'],
  ...['.envrc', '.vscode', '.mcp.json'],
] as const;

/** A place in a bind that no mount can keep as it is: nothing is there, or a symbolic link, or the init cannot get there. */
interface Open {
  readonly folder: number;
  readonly name: string;
  readonly path: string;
  readonly before: string | undefined;
}

interface Wanted {
  readonly protectedPaths: readonly string[];
  readonly binds: readonly Bind[];
}

interface Ids {
  readonly uid: number;
  readonly gid: number;
}

/**
 * Further binds that keep protected paths below each writable bind as they are. Only what is there can be mounted:
 * {@link changed} tells of the rest. Dispose of it when the sandbox is gone.
 */
export class Protection implements Disposable {
  readonly binds: Bind[] = [];
  readonly #stack = new DisposableStack();
  readonly #open: Open[] = [];
  readonly #targets: Set<string>;
  readonly #caller: Ids;

  /** @throws KilnError E_BIND */
  constructor({ protectedPaths, binds }: Wanted, caller: Ids) {
    this.#caller = caller;
    this.#targets = new Set(binds.map(({ target }) => join(target, '.')));
    using failed = new DisposableStack();
    failed.use(this.#stack);
    for (const bind of binds) {
      if (bind.readonly || bind.own === true || protectedPaths.length === 0) continue;
      const { fd } = this.#stack.use(closing(openBind(bind)));
      if (!fstatSync(fd).isDirectory()) continue;
      for (const path of protectedPaths) this.#keep(bind, fd, path.split('/'));
    }
    failed.move();
  }

  #keep(bind: Bind, top: number, parts: readonly string[]): void {
    let folder = top;
    for (const [index, name] of parts.entries()) {
      const path = parts.slice(0, index + 1).join('/');
      const fd = unlessErrno(['ENOENT', 'EACCES'], () => openPath(folder, name));
      const entry = fd === undefined ? undefined : this.#stack.use(closing(fd));
      const stat = entry === undefined ? undefined : fstatSync(entry.fd);
      const isEntered = this.#mayEnter(fstatSync(folder));
      if (entry === undefined || stat?.isSymbolicLink() !== false || !isEntered) {
        this.#open.push({
          folder,
          name,
          path: `${bind.source}/${path}`,
          before: identity(folder, name),
        });
        return;
      }
      // A mount on a folder above keeps the command from putting another in its place.
      const isLast = index === parts.length - 1 || !stat.isDirectory();
      this.#add(bind, path, entry.fd, isLast);
      if (isLast) return;
      folder = entry.fd;
    }
  }

  /** Whether the init may, which has rights over what belongs to the caller alone. */
  #mayEnter({ mode, uid, gid }: Stats): boolean {
    const isOwn = uid === this.#caller.uid && gid === this.#caller.gid;
    return isOwn || (mode & 0o001) !== 0;
  }

  #add({ source, target, place: _, ...bind }: Bind, path: string, fd: number, readonly: boolean) {
    const on = join(target, path);
    if (this.#targets.has(on)) return;
    this.#targets.add(on);
    const { relabel: _relabel, noLinks: _links, ...rest } = bind;
    const place = heldPath(fd);
    this.binds.push({ ...rest, source: `${source}/${path}`, target: on, place, readonly });
  }

  /** Paths on the host at which a command has made something since, or put something else. */
  changed(): string[] {
    const paths = this.#open
      .filter(({ folder, name, before }) => identity(folder, name) !== before)
      .map(({ path }) => path);
    return [...new Set(paths)];
  }

  [Symbol.dispose](): void {
    this.#stack.dispose();
  }
}

/** What tells one thing in a place from another. */
function identity(folder: number, name: string): string | undefined {
  const stat = statAt(folder, name);
  return stat && `${stat.ino} ${stat.ctimeNs}`;
}
