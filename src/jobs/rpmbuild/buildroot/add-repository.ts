import { statSync } from 'node:fs';
import { resolve } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { type Repository, resolveRepository } from '../../../packages/repository/configuration.ts';
import { repositorySchema } from '../../../packages/repository/configuration-schema.ts';

/**
 * A repository as `--addrepo` names it: a directory, or a URL, with `,gpgkey=FILE` behind it where
 * packages are signed. What comes by plain http must be signed: nothing else would protect it.
 * @param text as it was written; relative paths start at `cwd`
 * @param index tells several apart
 * @throws KilnError E_ARGUMENT, E_REPOSITORY_CONFIGURATION
 */
export function addedRepository(
  text: string,
  index: number,
  arch: string,
  cwd: string,
): Repository {
  const [where = '', ...parts] = text.split(',gpgkey=');
  const [gpgkey] = parts;
  const isUrl = /^[a-z]+:\/\//.test(where);
  const place = isUrl ? { baseurl: where } : { directory: directory(resolve(cwd, where), where) };
  if (where.startsWith('http:') && gpgkey === undefined) {
    throw new KilnError(
      'E_ARGUMENT',
      `--addrepo ${where}: without gpgcheck a forged package would not be noticed`,
      {
        hint: 'use https, or name the key of its packages: --addrepo URL,gpgkey=FILE',
      },
    );
  }
  const parsed = repositorySchema.safeParse({
    id: `addrepo${index + 1}`,
    name: where,
    ...place,
    gpgcheck: gpgkey !== undefined,
    ...(gpgkey === undefined ? {} : { gpgkey: resolve(cwd, gpgkey) }),
    // What one adds changes while one works.
    metadata_expire: 0,
  });
  if (!parsed.success) {
    throw new KilnError('E_ARGUMENT', `--addrepo ${where}: ${parsed.error.issues[0]?.message}`, {
      hint: 'give a URL (https:, http: or file:), or a folder that has repodata/',
    });
  }
  return resolveRepository(parsed.data, { arch, baseDirectory: cwd });
}

function directory(path: string, written: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return path;
  throw new KilnError('E_ARGUMENT', `--addrepo ${written}: there is no such directory`, {
    hint: 'name a folder that has repodata/ (createrepo_c makes it), or a URL',
  });
}
