/**
 * For whom an unpacked package of the store is there. To know a digest is not to have the package: a user whose recipe
 * names one that others have brought has to bring it, too. Root's own have no such bounds.
 *
 * An empty file `open` in a package's folder says that anybody can fetch it, `reader-UID` that this user has.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathsOfUser, type StatePaths } from '../../host/state/paths.ts';
import type { Reach } from '../../packages/repository/transport/reach.ts';
import { packageDirectory } from './entry.ts';

/** A user whose own recipe names packages. */
export interface PackageUser {
  readonly uid: number;
}

/** What kiln fetches for whom, and where to. */
export function reachOf(
  paths: StatePaths,
  user: PackageUser | undefined,
): { readonly paths: StatePaths; readonly reach: Reach } {
  if (user === undefined) return { paths, reach: 'named' };
  return { paths: pathsOfUser(paths, user), reach: 'public' };
}

const OPEN = 'open';

function readerFile({ uid }: PackageUser): string {
  return `reader-${uid}`;
}

/** Whether a package that is in the store is there for a user. */
export function mayRead(paths: StatePaths, digest: string, user: PackageUser): boolean {
  const directory = packageDirectory(paths, digest);
  return [OPEN, readerFile(user)].some((name) => existsSync(join(directory, name)));
}

/** Notes in the folder of a package who has brought it; `isPublic`: from where anybody can fetch it. */
export function noteReader(
  directory: string,
  user: PackageUser | undefined,
  isPublic: boolean,
): void {
  if (user !== undefined) writeFileSync(join(directory, readerFile(user)), '', { mode: 0o600 });
  else if (isPublic) writeFileSync(join(directory, OPEN), '', { mode: 0o600 });
}
