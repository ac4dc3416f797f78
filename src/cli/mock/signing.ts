/** mock's plugin sign: the caller's own gpg has the key, kiln signs with it. */
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import type { BuildRequest } from '../../build/request.ts';
import { KilnError } from '../../errors.ts';
import type { SignPlugin } from '../../mock/config/sign.ts';

/** The key for as long as this is not disposed of. */
export interface HostKey extends Disposable {
  readonly request: Pick<BuildRequest, 'signing'>;
}

/**
 * Has gpg hand out the key that a configuration names. It lies in a file in memory that has no name.
 * @throws KilnError E_SIGN_KEY
 */
export async function hostKey(plugin: SignPlugin | undefined): Promise<HostKey> {
  if (plugin === undefined) return { request: {}, [Symbol.dispose]: () => undefined };
  const name = plugin.name ?? (await macro('_gpg_name'));
  const home = plugin.home ?? (await macro('_gpg_path'));
  if (name === '') {
    throw new KilnError('E_SIGN_KEY', 'the plugin sign is on, and no key is named', {
      hint: "sign_opts['opts'] = '--addsign %(rpms)s -D \"%%_gpg_name NAME\"', or %_gpg_name in ~/.rpmmacros",
    });
  }
  const armored = await exportKey(name, home);
  const directory = mkdtempSync('/dev/shm/kiln-key-');
  const path = join(directory, 'key');
  const fd = openSync(path, 'wx+', 0o600);
  rmSync(directory, { recursive: true });
  writeFileSync(fd, armored);
  return {
    request: { signing: { key: `/proc/self/fd/${fd}` } },
    [Symbol.dispose]: () => closeSync(fd),
  };
}

/** What the host's rpm, with the caller's ~/.rpmmacros, makes of a macro; nothing if it has none. */
async function macro(name: string): Promise<string> {
  const { stdout = '' } = await execa('rpm', ['--eval', `%{?${name}}`], { reject: false });
  return stdout.trim();
}

async function exportKey(name: string, home: string): Promise<string> {
  const { KILN_SIGN_PASSPHRASE: passphrase } = process.env;
  const args = [
    ...['--batch', '--armor'],
    ...(home === '' ? [] : ['--homedir', home]),
    ...(passphrase === undefined ? [] : ['--pinentry-mode', 'loopback', '--passphrase-fd', '0']),
    ...['--export-secret-keys', '--', name],
  ];
  const { stdout, stderr, failed } = await execa('gpg', args, {
    reject: false,
    ...(passphrase === undefined ? { stdin: 'ignore' } : { input: passphrase }),
  });
  if (!failed && stdout?.includes('PRIVATE KEY')) return `${stdout}\n`;
  throw new KilnError('E_SIGN_KEY', `gpg has no secret key called ${name} for the plugin sign`, {
    cause: new Error(String(stderr).trim()),
    hint: '`gpg --list-secret-keys` lists them; KILN_SIGN_PASSPHRASE opens one with a passphrase',
  });
}
