import type { Repository } from './configuration.ts';

/** A repository that kiln published: among equal packages its own are preferred, as in mock's chains. */
export function localRepository(id: string, path: string, name = id): Repository {
  return {
    id,
    name,
    source: { kind: 'directory', path },
    gpgcheck: false,
    repoGpgcheck: false,
    gpgkey: [],
    priority: 99,
    cost: 1,
    excludepkgs: [],
    includepkgs: [],
    moduleHotfixes: false,
    metadataExpire: 0,
  };
}
