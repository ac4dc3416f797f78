/** The chains that a user has given to pools from this machine: links by their ids to their result directories. */
import { readdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { KilnError } from '../errors.ts';
import { hasErrno } from '../host/calls/libc.ts';
import { makeDirectory } from '../host/files/folder.ts';

type Environment = Readonly<Record<string, string>>;

/** As the XDG Base Directory Specification has it. */
function chainsFolder(env: Environment): string {
  const { XDG_STATE_HOME = '', HOME = '' } = env;
  const state = isAbsolute(XDG_STATE_HOME) ? XDG_STATE_HOME : join(HOME || '/', '.local/state');
  return join(state, 'kiln/farm');
}

/** Links an id to a result directory; where no home can be written, the directory names the chain. */
export async function rememberChain(
  env: Environment,
  id: string,
  directory: string,
): Promise<void> {
  const folder = chainsFolder(env);
  try {
    await makeDirectory(folder);
    rmSync(join(folder, id), { force: true });
    symlinkSync(directory, join(folder, id));
  } catch (error) {
    if (!hasErrno(error, 'EACCES', 'EROFS', 'ENOENT', 'ENOTDIR', 'EEXIST')) throw error;
  }
}

/** Ids and result directories, the newest id in no order. */
export function knownChains(
  env: Environment,
): { readonly id: string; readonly directory: string }[] {
  const folder = chainsFolder(env);
  try {
    return readdirSync(folder).map((id) => ({ id, directory: readlinkSync(join(folder, id)) }));
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'EACCES')) return [];
    throw error;
  }
}

/** The result directory that an id, its beginning, or a path means. @throws KilnError E_FARM_CHAIN */
export function findChain(env: Environment, name: string): string {
  if (name.includes('/') || name === '.') return resolve(name);
  const found = knownChains(env).filter(({ id }) => id.startsWith(name));
  if (found.length === 1) return found[0]!.directory;
  const what = found.length === 0 ? 'no chain' : `${found.length} chains`;
  throw new KilnError('E_FARM_CHAIN', `you have ${what} called ${name}`, {
    hint: '`kiln farm status` lists them; a path with a slash means a result directory',
  });
}
