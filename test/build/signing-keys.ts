/** OpenPGP keys that gpg makes, for tests. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { QUICK_PASSPHRASES } from '../support/gnupg-home.ts';

/** A key pair as armored files. */
export interface KeyPair {
  readonly secret: string;
  readonly public: string;
  /** Lower-case hex. */
  readonly fingerprint: string;
}

/**
 * Has gpg make a key that only signs.
 * @param directory for the files
 * @param algorithm as gpg's --quick-gen-key takes it
 * @param subkey the algorithm of a subkey that signs instead: the main key's secret is left out
 */
export async function makeKey(
  directory: string,
  algorithm: string,
  passphrase = '',
  subkey?: string,
): Promise<KeyPair> {
  // gpg's agent has a socket there: the path must be short.
  const home = await mkdtemp(join(tmpdir(), 'kg-'));
  await writeFile(join(home, 'gpg-agent.conf'), QUICK_PASSPHRASES);
  const gpg = async (...args: readonly string[]) =>
    await execa('gpg', [
      ...['--batch', '--quiet', '--homedir', home, '--pinentry-mode', 'loopback'],
      ...['--passphrase', passphrase, ...args],
    ]);
  try {
    const name = `kiln ${algorithm} ${subkey ?? ''}`.trim();
    const fingerprint = async () => {
      const { stdout } = await gpg('--with-colons', '--list-keys', name);
      return (
        stdout
          .match(/(?<=^fpr:+)[0-9A-F]+/gm)
          ?.at(-1)
          ?.toLowerCase() ?? ''
      );
    };
    await gpg('--quick-gen-key', name, algorithm, subkey === undefined ? 'sign' : 'cert', 'never');
    if (subkey !== undefined) {
      await gpg('--quick-add-key', await fingerprint(), subkey, 'sign', 'never');
    }
    const file = name.replaceAll(' ', '-');
    const paths = {
      secret: join(directory, `${file}.secret.asc`),
      public: join(directory, `${file}.public.asc`),
    };
    const secret = subkey === undefined ? '--export-secret-keys' : '--export-secret-subkeys';
    await gpg('--armor', '--output', paths.secret, secret, name);
    await gpg('--armor', '--output', paths.public, '--export', name);
    return { ...paths, fingerprint: await fingerprint() };
  } finally {
    await execa('gpgconf', ['--homedir', home, '--kill', 'all'], { reject: false });
    await rm(home, { recursive: true, force: true });
  }
}

/** What `rpmkeys -Kv` says of a package, with these public keys only. */
export async function rpmkeys(
  directory: string,
  file: string,
  keys: readonly string[],
): Promise<{ readonly ok: boolean; readonly text: string }> {
  const database = await mkdtemp(join(directory, 'rpmdb-'));
  const options = ['--dbpath', database];
  for (const key of keys) await execa('rpmkeys', [...options, '--import', key]);
  const check = await execa('rpmkeys', [...options, '-Kv', file], {
    reject: false,
    env: { LC_ALL: 'C' },
  });
  return { ok: check.exitCode === 0, text: check.stdout };
}

/** The payload, unpacked by rpm's own tool. */
export async function payloadOf(file: string): Promise<Buffer> {
  const { stdout } = await execa('rpm2cpio', [file], { encoding: 'buffer' });
  return Buffer.from(stdout);
}

/** A secret key with one letter of its armor changed, as text. */
export async function damaged(path: string): Promise<string> {
  return (await readFile(path, 'utf8')).replace(/^(\S{20})\S/m, '$1!');
}
