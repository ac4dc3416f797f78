import type { Repository } from '../repository/configuration.ts';

/** A repository of packages that kiln-mock itself published: of equals they are taken first. */
export function localRepository(id: string, path: string): Repository {
  return {
    id,
    name: id,
    source: { kind: 'directory', path },
    gpgcheck: false,
    repoGpgcheck: false,
    gpgkey: [],
    priority: 99,
    cost: 1,
    excludepkgs: [],
    includepkgs: [],
    metadataExpire: 0,
  };
}
