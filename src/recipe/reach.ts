/** What an image recipe, or a lock, may name of the host: what lies in its folder, unless somebody is trusted with more. */
import { closeSync, constants, openSync, readlinkSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { KilnError } from '../errors.ts';
import { closing } from '../host/calls/descriptor.ts';
import { attempt, hasErrno } from '../host/calls/libc.ts';
import { O_PATH } from '../host/files/at.ts';
import { foundAt, heldPath } from '../host/files/held.ts';
import { isWithin, openWithin } from '../host/files/user-file.ts';
import type { RecipeFiles } from './folder.ts';
import { isHosts } from './named.ts';

export interface RecipeReach {
  /** Where kiln itself opens such files: a folder out of which no link leads to them, as openWithin() takes it. */
  readonly below: string | undefined;
  /** The path of what kiln may read there; of a user's file, of a copy. @throws KilnError E_HOST_NOT_ALLOWED, E_CALLER_FILE */
  place(path: string, kind: 'file' | 'folder'): Promise<string>;
}

/**
 * What kiln and root have written, or the caller trusts, may name any path.
 * @param holdName has the caller's client open it, where the caller's words lead there
 */
export function anywhere(
  files: RecipeFiles | undefined,
  holdName?: (path: string) => Promise<void>,
): RecipeReach {
  const place: RecipeReach['place'] = async (path, kind) => {
    if (files === undefined) {
      await holdName?.(path);
      return path;
    }
    return await (kind === 'file' ? files.file(path) : files.tree(path, 'inside'));
  };
  return { below: undefined, place };
}

interface Bounds {
  /** What messages call the recipe or lock. */
  readonly title: string;
  /** Its folder; without links where kiln itself opens what lies there. */
  readonly folder: string;
  /** Where kiln's own packages are: they are nobody's secret. */
  readonly fixtures: string;
  /** Of a user: the copy of the recipe, whose client has opened the folder. */
  readonly copy?: { readonly files: RecipeFiles; readonly path: string } | undefined;
}

export function inFolder({ title, folder, fixtures, copy }: Bounds): RecipeReach {
  const free = anywhere(copy?.files);
  const place: RecipeReach['place'] = async (path, kind) => {
    if (isHosts(fixtures, path)) return await free.place(path, kind);
    if (!isWithin(path, folder)) throw notAllowedError(title, path, 'it lies elsewhere');
    try {
      if (copy !== undefined) return await copy.files.beside(copy.path, relative(folder, path));
      closeSync(openWithin(path, folder));
    } catch (error) {
      if (hasErrno(error, 'EXDEV', 'ELOOP'))
        throw notAllowedError(title, path, 'a link leads elsewhere');
      // What is not there is told by who needs it.
      if (copy !== undefined) throw error;
    }
    return path;
  };
  return { below: copy === undefined ? folder : undefined, place };
}

/** A path without links above its last part. */
export function inRealFolder(path: string): string {
  const real = attempt(() => {
    using folder = closing(openSync(foundAt(dirname(path)), O_PATH | constants.O_DIRECTORY));
    return readlinkSync(heldPath(folder.fd));
  });
  return join(real ?? dirname(path), basename(path));
}

export function notAllowedError(title: string, path: string, why: string): KilnError {
  return new KilnError(
    'E_HOST_NOT_ALLOWED',
    `${title} may name what lies in its folder, not ${path}: ${why}`,
    {
      hint: 'put it there; or read the recipe, and confirm with --allow-host if you trust it',
    },
  );
}
