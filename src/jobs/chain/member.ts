import { KilnError } from '../../errors.ts';
import { digestFile } from '../../packages/repository/cache.ts';
import { formatDependency } from '../../packages/rpm/dependency.ts';
import { readRpms } from '../../packages/rpm/read.ts';
import type { Capability } from './capability.ts';

/** A source package of a chain, from its header. */
export interface Member {
  /** name-version-release: its name in messages, and its directory. */
  readonly name: string;
  /** Absolute, on the host. */
  readonly path: string;
  /** sha256 of the file, hex. */
  readonly sha256: string;
  /** BuildRequires on the machine that made the source package. */
  readonly requires: readonly string[];
  /** The provides that the main package of any spec has. */
  readonly provides: readonly Capability[];
}

/**
 * Reads the headers of the source packages in a confined child. A file that is named twice counts once.
 * @throws KilnError E_BUILD_SOURCE for what is none, E_CHAIN_DUPLICATE for two that differ under
 * one name
 */
export async function readMembers(
  paths: readonly string[],
  signal: AbortSignal | undefined,
): Promise<Member[]> {
  const members = new Map<string, Member>();
  for await (const result of readRpms(paths, { depth: 'header', signal })) {
    const { file: path } = result;
    if (result.error !== undefined) throw notASource(path, 'is not a source package', result.error);
    const { package: rpm } = result;
    if (!rpm.isSource) throw notASource(path, 'is a binary package, not a source package');
    const { name, epoch, version, release } = rpm;
    const id = `${name}-${version}-${release}`;
    if (!/^[A-Za-z0-9_][^/\s\0]*$/.test(id)) {
      throw notASource(path, 'has a name that cannot be that of a directory');
    }
    const sha256 = (await digestFile(path, 'sha256')).slice('sha256:'.length);
    const other = members.get(id);
    if (other !== undefined && other.sha256 !== sha256) {
      throw new KilnError('E_CHAIN_DUPLICATE', `${other.path} and ${path} are both ${id}`, {
        hint: 'give one of them another release, or leave one out',
      });
    }
    const requires = rpm.dependencies.requires.map(formatDependency);
    const evr = `${epoch === null ? '' : `${epoch}:`}${version}-${release}`;
    const provides = [{ name, operator: '=' as const, version: evr }];
    members.set(id, { name: id, path, sha256, requires, provides });
  }
  // In the caller's order: the children answer in any order.
  return [...members.values()].sort((a, b) => paths.indexOf(a.path) - paths.indexOf(b.path));
}

function notASource(path: string, what: string, cause?: KilnError): KilnError {
  return new KilnError('E_BUILD_SOURCE', `${path} ${what}`, {
    cause,
    hint: 'a chain is built of .src.rpm files; `kiln rpm query` tells what a file is',
  });
}
