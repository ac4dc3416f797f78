import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { backingOf } from '../../host/cgroup/cgroup-io.ts';
import type { SandboxSpecification } from '../policy/specification.ts';

/**
 * The whole disks (`MAJOR:MINOR`) that a sandbox can reach: those of its image, its scratch directory, its
 * binds and its volumes. Files in memory are on none.
 * @throws KilnError E_LIMIT where a file system does not tell its disks
 */
export function disksOf(specification: SandboxSpecification): string[] {
  const { root, scratch, binds, volumes } = specification;
  const paths = [
    root,
    ...(scratch === undefined ? [] : [scratch]),
    ...binds.map(({ source, descriptor }) =>
      descriptor === undefined ? source : `/proc/self/fd/${descriptor}`,
    ),
    ...volumes.map(({ source }) =>
      typeof source === 'number' ? `/proc/self/fd/${source}` : source,
    ),
  ];
  return [...new Set(paths.flatMap(disksBelow))];
}

function disksBelow(path: string): string[] {
  const backing = existing(path);
  // Ignore a missing path here; mounting it reports it.
  if (backing === undefined) return [];
  if (backing.kind === 'disk') return [backing.device];
  if (backing.kind === 'memory') return [];
  throw new KilnError(
    'E_LIMIT',
    `${path} is on ${backing.fileSystem}, which does not tell the disk it is on: what is read and written there cannot be limited`,
    {
      hint: 'keep KILN_STATE, binds and volumes on a file system with a disk of its own, as ext4 or xfs',
      details: { path, fileSystem: backing.fileSystem },
    },
  );
}

function existing(path: string): ReturnType<typeof backingOf> | undefined {
  try {
    return backingOf(path);
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return undefined;
    throw new KilnError('E_LIMIT', `cannot find out which disk ${path} is on`, {
      cause: error,
      hint: 'without --io-read and --io-write kiln need not know it',
    });
  }
}
