/** Files of repositories that are folders of this host. */
import { readSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { foundAt } from '../../host/files/held.ts';
import { openWithin, readUserFile } from '../../host/files/user-file.ts';
import { type Cache, createTemporary, digestFile } from './cache.ts';
import type { RepositorySource } from './configuration.ts';
import { fixturesHint, isGone } from './trust/keys.ts';

/** openat2(2), of a link beneath a folder. */
const LEADS_OUT = ['EXDEV', 'ELOOP'];

function leadsOutError(id: string, path: string): KilnError {
  const what = `repository ${id}: a link leads from ${path} out of the folder of the recipe`;
  return new KilnError('E_HOST_NOT_ALLOWED', what, {
    hint: 'put the file itself there; or confirm with --allow-host if you trust the recipe',
  });
}

interface Local {
  readonly id: string;
  readonly source: RepositorySource;
  readonly below?: string | undefined;
}

/**
 * Where a file lies that the metadata of a local repository names.
 * @param location as resolveLocation() has checked it
 */
export function localPath({ source, below }: Local, location: string): string {
  const path = location.startsWith('file:')
    ? fileURLToPath(location)
    : join(source.kind === 'directory' ? source.path : '', location);
  // Others open it, by this path.
  return below === undefined ? foundAt(path) : path;
}

/** @throws KilnError E_REPOSITORY_MISSING, E_REPOSITORY_METADATA, E_HOST_NOT_ALLOWED */
export function readLocal({ id, below }: Local, path: string, limit: number): Buffer {
  try {
    return readUserFile(path, limit, 'file', below);
  } catch (cause) {
    if (hasErrno(cause, ...LEADS_OUT)) throw leadsOutError(id, path);
    const missing = isGone(cause) || hasErrno(cause, 'EACCES');
    const make = 'make the metadata with `createrepo_c FOLDER`';
    throw new KilnError(
      missing ? 'E_REPOSITORY_MISSING' : 'E_REPOSITORY_METADATA',
      `repository ${id}: ${missing ? `there is no ${path}` : `${path} cannot be read`}`,
      {
        ...(isGone(cause) ? {} : { cause }),
        hint: missing ? (fixturesHint(path) ?? `${make}, or change the path`) : make,
      },
    );
  }
}

interface Wanted {
  readonly digest: string;
  readonly maxSize: number;
}

/**
 * The path of a file that may be opened by its name: where links must not lead out of a folder, that of a copy in the
 * cache, since somebody could put a link in the file's place.
 * @returns undefined if it is not there; a copy has the digest, or is not made
 * @throws KilnError E_HOST_NOT_ALLOWED for a link that leads out
 */
export async function localFile(
  { id, below }: Local,
  path: string,
  { digest, maxSize }: Wanted,
  cache: Cache,
): Promise<string | undefined> {
  if (below === undefined) {
    const found = await stat(path).catch(() => undefined);
    return found?.isFile() ? path : undefined;
  }
  const known = await cache.find(digest);
  if (known !== undefined) return known;
  let fd: number;
  try {
    fd = openWithin(path, below);
  } catch (error) {
    if (hasErrno(error, ...LEADS_OUT)) throw leadsOutError(id, path);
    if (isGone(error)) return undefined;
    throw error;
  }
  using from = closing(fd);
  await using copy = await createTemporary(cache.object(digest));
  const piece = Buffer.allocUnsafe(1 << 20);
  for (let size = 0; size <= maxSize; ) {
    const count = readSync(from.fd, piece);
    if (count === 0) break;
    await copy.handle.write(piece, 0, count);
    size += count;
  }
  const found = await digestFile(`/proc/self/fd/${copy.handle.fd}`, digest.split(':')[0] ?? '');
  if (found !== digest) return undefined;
  await copy.commit();
  return cache.object(digest);
}
