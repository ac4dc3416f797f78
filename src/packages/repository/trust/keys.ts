import { hash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { KilnError } from '../../../errors.ts';
import { hasErrno } from '../../../host/calls/libc.ts';
import { readUserFile } from '../../../host/files/user-file.ts';
import { shellWord } from '../../../shell-words.ts';
import type { SignaturePolicy } from '../../rpm/inspect.ts';
import type { Lock } from '../lock/lock.ts';

/** Debian's and Fedora's package with the keys of most RPM distributions. */
const KEY_PACKAGE = 'distribution-gpg-keys';

/** A key file is a few KiB, a keyring of a whole distribution less than this. */
const MAX_KEY = 4 << 20;

/** The folder that fixtures/debian-rpms makes, below KILN_FIXTURES or KILN_STATE/fixtures. */
const FIXTURES =
  /\/debian-rpms\/(?:(extras|services|tools)(?:\/|$)|(?:build|RPM-GPG-KEY-kiln-fixtures)(?:\/|$))/;

/** What makes the packages below `path`, where kiln brings a program for it. */
export function fixturesHint(path: string): string | undefined {
  const found = FIXTURES.exec(path);
  if (found === null) return undefined;
  const here = import.meta.url;
  const script = here.endsWith('.ts') ? '../../../../scripts/fixtures' : '../scripts/fixtures';
  const command = `${shellWord(fileURLToPath(new URL(script, here)))} --set ${found[1] ?? 'build'}`;
  return `as root, \`${command}\` makes RPMs of Debian’s packages for kiln’s recipes, once (docs/fixtures.md)`;
}

/** True if a file is not there; a message that says so needs no cause. */
export const isGone = (error: unknown): boolean => hasErrno(error, 'ENOENT', 'ENOTDIR');

interface KeyRequirement {
  readonly id: string;
  readonly below?: string | undefined;
  readonly gpgkey: readonly string[];
}

export async function readKeys({ id, gpgkey, below }: KeyRequirement): Promise<string[]> {
  return gpgkey.map((path) => readKey(id, path, below));
}

function readKey(repository: string, path: string, below: string | undefined): string {
  try {
    return readUserFile(path, MAX_KEY, 'file', below).toString('latin1');
  } catch (cause) {
    const packaged = path.includes(`/${KEY_PACKAGE}/`);
    const missing = isGone(cause);
    throw new KilnError(
      'E_KEY_MISSING',
      `repository ${repository}: the key ${path} ${missing ? 'is missing' : 'cannot be read'}`,
      {
        ...(missing ? {} : { cause }),
        hint: packaged
          ? `install the package ${KEY_PACKAGE} (a newer one if it is installed), or change gpgkey`
          : (fixturesHint(path) ?? 'put the key there or change gpgkey'),
      },
    );
  }
}

/** A digest of the keys' texts: sha256, hex. Another order of files gives another digest. */
export function keysDigest(texts: readonly string[]): string {
  return hash('sha256', JSON.stringify(texts), 'hex');
}

export interface Trust {
  readonly policy: SignaturePolicy;
  readonly keys: readonly string[];
  readonly digest: string;
}

export async function readTrust(
  repository: KeyRequirement & { readonly gpgcheck: boolean },
): Promise<Trust> {
  const keys = await readKeys(repository);
  const policy = repository.gpgcheck ? 'require' : 'allow-unsigned';
  return { policy, keys, digest: keysDigest(keys) };
}

export async function requiredKeys(lock: Lock): Promise<(string | null)[]> {
  const required = new Map<string, string>();
  for (const repository of lock.repositories.filter(({ gpgcheck }) => gpgcheck)) {
    required.set(repository.id, (await readTrust(repository)).digest);
  }
  return lock.packages.map(({ repository }) => required.get(repository) ?? null);
}
