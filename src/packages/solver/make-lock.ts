import { KilnError } from '../../errors.ts';
import { type Lock, type LockedPackage, lockOf } from '../repository/lock/lock.ts';
import { LOCK_FORMAT } from '../repository/lock/lock-format.ts';
import type { RepositorySet } from '../repository/open.ts';
import { lockAccess } from '../repository/transport/access.ts';
import { MAX_PACKAGE } from '../repository/transport/limits.ts';
import { resolveLocation } from '../repository/transport/location.ts';
import type { SolvedPackage } from './solve-input.ts';

/**
 * The lock for a solution. What the solver's child said is checked here: it read untrusted bytes.
 * @throws KilnError E_REPOSITORY_METADATA for a package that cannot be locked.
 */
export function makeLock(
  set: RepositorySet,
  request: {
    readonly arch: string;
    readonly install: readonly string[];
    readonly requires?: readonly string[] | undefined;
  },
  packages: readonly SolvedPackage[],
): Lock {
  const local = new Set(
    set.members
      .filter(({ repository }) => repository.source.kind === 'directory')
      .map(({ repository }) => repository.id),
  );
  const locked = packages.map((found) => lockPackage(found, local.has(found.repository)));
  const used = new Set(locked.map(({ repository }) => repository));
  const repositories = set.members
    .map(({ repository }) => repository)
    .filter(({ id }) => used.has(id))
    .map(({ id, source, gpgcheck, gpgkey }) => ({ id, source, gpgcheck, gpgkey }));
  return lockOf({
    format: LOCK_FORMAT,
    arch: request.arch,
    requested: [...request.install, ...(request.requires ?? [])],
    repositories,
    packages: locked,
    ...lockAccess(set.members.map(({ repository }) => repository)),
  });
}

/** What to do about a package that its repository describes wrongly. */
const LEAVE_OUT =
  'the metadata of its repository is broken or hostile: leave the package out by `exclude`';

function lockPackage(found: SolvedPackage, local: boolean): LockedPackage {
  const { nevra, name, arch, digest, size, repository } = found;
  const { epoch, version, release } = splitEvr(found);
  if (!/^sha(256|384|512):[0-9a-f]+$/.test(digest)) {
    throw broken(found, `it has the checksum type '${digest.split(':')[0]}', sha256 is the least`);
  }
  if (size <= 0 || size > MAX_PACKAGE) {
    throw broken(found, `it has ${size} bytes, from 1 to ${MAX_PACKAGE} can be had`);
  }
  const location = resolveLocation(found, local, aboutFound(found));
  return { nevra, name, epoch, version, release, arch, digest, size, location, repository };
}

/** libsolv writes `[epoch:]version-release` and leaves epoch 0 out. */
function splitEvr(found: SolvedPackage): { epoch: number; version: string; release: string } {
  const match = /^(?:(\d+):)?([^:-]+)-([^:-]+)$/.exec(found.evr);
  if (match === null) throw broken(found, `'${found.evr}' is not the version of a package`);
  const [, epoch = '0', version = '', release = ''] = match;
  return { epoch: Number(epoch), version, release };
}

function broken(found: SolvedPackage, why: string): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `${aboutFound(found)}: ${why}`, {
    hint: LEAVE_OUT,
  });
}

function aboutFound({ nevra, repository }: SolvedPackage): string {
  return `${nevra} of repository ${repository}`;
}
