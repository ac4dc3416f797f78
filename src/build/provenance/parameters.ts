import { basename } from 'node:path';
import type { Repository } from '../../repository/configuration.ts';
import type { BuildRequest } from '../request.ts';

/**
 * The part of a request that decides what comes out of a build, for others to read: paths of this
 * host and credentials are left out.
 */
export function externalParameters(request: BuildRequest): Record<string, unknown> {
  const { source, network, shortCircuit, nocheck, target } = request;
  return {
    image: nameOf(request.image),
    source: { kind: source.kind, name: basename(source.path) },
    defines: request.defines ?? [],
    with: request.with ?? [],
    without: request.without ?? [],
    rpmbuildOptions: request.rpmbuildOptions ?? [],
    additionalPackages: request.additionalPackages ?? [],
    repositories: (request.repositories ?? []).map(repositoryParameters),
    network: network?.phases ?? [],
    ...(target === undefined ? {} : { target }),
    ...(nocheck === true ? { nocheck } : {}),
    ...(shortCircuit === undefined ? {} : { shortCircuit }),
  };
}

/** A recipe's or lock's path says where it lies on this host; its name is enough. */
function nameOf(image: string): string {
  return image.includes('/') ? basename(image) : image;
}

function repositoryParameters({ id, source, gpgcheck }: Repository) {
  const { kind } = source;
  const where = kind === 'directory' ? [] : kind === 'baseurl' ? source.urls : [source.url];
  return { id, kind, gpgcheck, urls: where.map(withoutCredentials) };
}

function withoutCredentials(url: string): string {
  const parsed = new URL(url);
  parsed.username = '';
  parsed.password = '';
  return parsed.href;
}
