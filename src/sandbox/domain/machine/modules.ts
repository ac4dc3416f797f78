/** Which of a kernel's modules a machine needs, as its modules.builtin and modules.dep say: depmod(8). */
import { basename } from 'node:path';

const NEEDED = ['virtio_pci', 'virtio_console', 'virtiofs', 'overlay'];
/** An older kernel has no generator of random numbers that needs no module, and no network card is no loss. */
const WELCOME = ['virtio_rng', 'virtio_net'];
/** As src/guest/machine/image.c has them. */
const OF_IMAGES = ['loop', 'squashfs', 'erofs', 'xfs', 'ext4'];

/** Paths below the folder of the two files, each after those that it needs. */
export interface WantedModules {
  readonly modules: readonly string[];
  /** Those that are loaded when somebody names a file with a file system. */
  readonly imageModules: readonly string[];
}

/** `virtio-rng.ko.xz` is the module virtio_rng. */
function moduleName(path: string): string {
  return basename(path)
    .replace(/\.ko(\..*)?$/, '')
    .replaceAll('-', '_');
}

function lines(text: string): string[] {
  return text.split('\n').filter(Boolean);
}

export class ModuleTable {
  readonly #builtin: ReadonlySet<string>;
  readonly #files = new Map<string, { readonly path: string; readonly needs: readonly string[] }>();

  /** @param builtin the content of modules.builtin @param dependencies that of modules.dep */
  constructor(builtin: string, dependencies: string) {
    this.#builtin = new Set(lines(builtin).map(moduleName));
    for (const line of lines(dependencies)) {
      const [path = '', needs = ''] = line.split(':');
      this.#files.set(moduleName(path), { path, needs: needs.split(' ').filter(Boolean) });
    }
  }

  lacking(): string[] {
    return NEEDED.filter((name) => !this.#builtin.has(name) && !this.#files.has(name));
  }

  /** What a machine needs, and what it takes where it is there. */
  wanted(): WantedModules {
    const modules = this.#paths([...NEEDED, ...WELCOME]);
    const imageModules = this.#paths(OF_IMAGES).filter((path) => !modules.includes(path));
    return { modules, imageModules };
  }

  /** None for what is built in, or missing. */
  #paths(names: readonly string[]): string[] {
    const paths = names.flatMap((name) => {
      const found = this.#builtin.has(name) ? undefined : this.#files.get(name);
      // modules.dep lists the nearest first.
      return found === undefined ? [] : [...[...found.needs].reverse(), found.path];
    });
    return [...new Set(paths)];
  }
}
