import type { ByteString } from '../../artifacts/byte-string.ts';
import { hasErrno } from '../../host/calls/libc.ts';

/**
 * Why a symbolic link of a sandbox does not stay inside the folder that it would be written to; undefined if it does.
 *
 * Its target must be relative and have `..` only at its start, and no more of them than there are folders above it: those
 * that it climbs are no links. What it then passes may be links of the folder's owner, so it is followed once.
 * @param follow a path from the top of the folder; throws the system's error, EXDEV for one that leads out of it
 */
export function whyNotInside(
  path: ByteString,
  target: ByteString,
  follow: (path: ByteString) => void,
): string | undefined {
  if (target.startsWith('/')) return 'that is absolute';
  const parts = target.split('/').filter((part) => part !== '' && part !== '.');
  const above = path.split('/').slice(0, -1);
  const firstName = parts.findIndex((part) => part !== '..');
  const ups = firstName === -1 ? parts.length : firstName;
  if (parts.indexOf('..', ups) !== -1) return 'where `..` stands behind a name';
  if (ups > above.length) return 'that leads out of the folder';
  const way = [...above.slice(0, above.length - ups), ...parts.slice(ups)].join('/');
  try {
    follow(way === '' ? '.' : way);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return undefined;
    if (hasErrno(error, 'EXDEV')) return 'that leads out of the folder';
    return 'that cannot be followed';
  }
  return undefined;
}
