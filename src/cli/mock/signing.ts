/** mock's plugin sign: the key is in a home of gpg's, and kiln signs with it. */
import { closeSync, mkdtempSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { removeTreeNow } from '../../host/files/remove-tree.ts';
import { runTool } from '../../host/process/child-process.ts';
import type { SignPlugin } from '../../jobs/mock/config/sign.ts';
import { exportSecretKey } from '../../jobs/mock/export-key.ts';
import type { BuildRequest } from '../../jobs/rpmbuild/request.ts';
import type { Caller } from '../caller/caller.ts';
import { hostPath } from './session.ts';

/** The key, until this is disposed of. */
export interface HostKey extends Disposable {
  readonly request: Pick<BuildRequest, 'signing'>;
}

/**
 * Has gpg export the configuration's key into a nameless file in memory.
 * @throws KilnError E_SIGN_KEY
 */
export async function hostKey(plugin: SignPlugin | undefined, { env }: Caller): Promise<HostKey> {
  if (plugin === undefined) return { request: {}, [Symbol.dispose]: () => undefined };
  const name = plugin.name ?? (await macro('_gpg_name'));
  const home = plugin.home ?? ((await macro('_gpg_path')) || env.GNUPGHOME || '~/.gnupg');
  if (name === '') {
    throw new KilnError('E_SIGN_KEY', 'the plugin sign is on, and no key is named', {
      hint: "sign_opts['opts'] = '--addsign %(rpms)s -D \"%%_gpg_name NAME\"', or %_gpg_name in ~/.rpmmacros",
    });
  }
  const armored = await exportSecretKey({
    name,
    home: hostPath(home),
    passphrase: env.KILN_SIGN_PASSPHRASE,
  });
  const directory = mkdtempSync('/dev/shm/kiln-key-');
  const path = join(directory, 'key');
  const fd = openSync(path, 'wx+', 0o600);
  removeTreeNow(directory);
  writeFileSync(fd, armored);
  return {
    request: { signing: { key: `/proc/self/fd/${fd}` } },
    [Symbol.dispose]: () => closeSync(fd),
  };
}

/** The value of a macro in the host's rpm, with the caller's ~/.rpmmacros; empty if it is not defined. */
async function macro(name: string): Promise<string> {
  const { stdout } = await runTool('rpm', ['--eval', `%{?${name}}`], { cwd: '/' });
  return stdout.trim();
}
