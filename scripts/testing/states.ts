import { type FSWatcher, mkdirSync, readdirSync, readlinkSync, watch } from 'node:fs';
import { join } from 'node:path';

/** Where all kilns of a host have a folder for each of their states. */
export const RUN = '/run/kiln';

/** The name of such a folder; cgroups, domains and reservations have it in theirs, the first six digits at least. */
const ID = /(?:^|kiln(?:-|\\x2d)|work-|\/)([0-9a-f]{6,8})(?![0-9a-z])/g;

/** Whose something is. Of what nobody has a claim to, the run may have been the maker. */
export type Whose = 'ours' | 'others' | 'unknown';

/**
 * Knows which states of this host are the run's own: those below its folders. The link in a state's folder on /run
 * says where it is. It is remembered, since what is left behind may outlive the folder.
 */
export class States implements Disposable {
  readonly #own: readonly string[];
  readonly #roots = new Map<string, string>();
  readonly #watcher: FSWatcher;

  /** @param own the run's folders, without links in their paths */
  constructor(own: readonly string[]) {
    this.#own = own;
    mkdirSync(RUN, { recursive: true, mode: 0o711 });
    this.#watcher = watch(RUN, { persistent: false }, () => this.look());
    this.look();
  }

  look(): void {
    for (const id of readdirSync(RUN)) {
      try {
        this.#roots.set(id, readlinkSync(join(RUN, id, 'state')));
      } catch {
        // No state's, or gone.
      }
    }
  }

  /** The states below the run's folders. */
  own(): string[] {
    return [...this.#roots.values()].filter((root) => this.whose(`${root}/`) === 'ours');
  }

  /** Whose a path, or the name of a cgroup, a domain or a state's folder, is. */
  whose(text: string): Whose {
    if (this.#own.some((folder) => text.includes(folder))) return 'ours';
    const ids = [...text.matchAll(ID)].map(([, id = '']) => id);
    const roots = [...this.#roots].filter(([id]) => ids.some((part) => id.startsWith(part)));
    const isBelow = (folder: string, path: string) => `${path}/`.startsWith(`${folder}/`);
    if (roots.some(([, root]) => this.#own.some((folder) => isBelow(folder, root)))) return 'ours';
    const isIn = [...this.#roots.values()].some((root) => isBelow(root, text));
    return roots.length > 0 || isIn ? 'others' : 'unknown';
  }

  [Symbol.dispose](): void {
    this.#watcher.close();
  }
}
