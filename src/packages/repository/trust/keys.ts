import { createHash } from 'node:crypto';
import { KilnError } from '../../../errors.ts';
import { hasErrno } from '../../../host/calls/libc.ts';
import { readUserFile } from '../../../host/files/user-file.ts';
import { fixturesHint } from '../fixtures-hint.ts';

/** Debian's and Fedora's package with the keys of most RPM distributions. */
const KEY_PACKAGE = 'distribution-gpg-keys';

/** A key file is a few KiB, a keyring of a whole distribution less than this. */
const MAX_KEY = 4 << 20;

/** The settings of a repository for {@link readKeys}. */
export interface KeyRequirement {
  readonly id: string;
  readonly gpgkey: readonly string[];
}

/**
 * The text of a repository's key files.
 * @throws KilnError E_KEY_MISSING naming the file and how to get it.
 */
export async function readKeys({ id, gpgkey }: KeyRequirement): Promise<string[]> {
  return await Promise.all(gpgkey.map((path) => readKey(id, path)));
}

/** A digest of the keys' texts: sha256, hex. Another order of files gives another digest. */
export function keysDigest(texts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(texts)).digest('hex');
}

async function readKey(repository: string, path: string): Promise<string> {
  try {
    return readUserFile(path, MAX_KEY).toString('latin1');
  } catch (cause) {
    const packaged = path.includes(`/${KEY_PACKAGE}/`);
    const missing = hasErrno(cause, 'ENOENT', 'ENOTDIR');
    throw new KilnError(
      'E_KEY_MISSING',
      `repository ${repository}: the key ${path} ${missing ? 'is missing' : 'cannot be read'}`,
      {
        cause,
        hint: packaged
          ? `install the package ${KEY_PACKAGE} (a newer one if it is installed), or change gpgkey`
          : (fixturesHint(path) ?? 'put the key there or change gpgkey'),
      },
    );
  }
}
