/** Exports a secret key from a home of gpg's, but ignores its configuration, which can name programs to start. */
import {
  chownSync,
  constants,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { FILE_BELOW, openat2, openDirectory } from '../../host/files/at.ts';
import { removeTreeNow } from '../../host/files/remove-tree.ts';
import { runTool } from '../../host/process/child-process.ts';

interface KeyExport {
  readonly name: string;
  readonly home: string;
  readonly passphrase: string | undefined;
}

/** Public keys, by the version of gpg that wrote them; `secring.gpg`: secret ones of gpg 1. */
const RINGS = ['pubring.kbx', 'pubring.gpg', 'secring.gpg'];

/** The keyring of gpg's keyboxd, if common.conf says so. */
const DATABASE = 'public-keys.d/pubring.db';

const SECRET = { folder: 'private-keys-v1.d', file: /^[0-9A-F]{40}\.key$/ };

/** Bytes of a keyring, of one secret key, and of common.conf; number of secret keys. */
const MAX_RING = 256 * 2 ** 20;
const MAX_SECRET = 2 ** 20;
const MAX_CONF = 64 * 1024;
const MAX_SECRETS = 4096;

/** Exporting takes a second, but an agent may wait for a person. */
const PATIENCE_MS = 60_000;

/** An id that nothing else has, of those for confined children (src/host/confine/launch.ts). */
const GPG_ID = 1879048192 + 65532;

const ENVIRONMENT = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' };

/**
 * Returns the armored secret key. gpg runs without rights and without a network, in a home that kiln made and that
 * has copies of the keyrings only: no configuration, no socket, no program.
 * @throws KilnError E_SIGN_KEY
 */
export async function exportSecretKey(wanted: KeyExport): Promise<string> {
  // In memory: these are secret keys.
  const home = mkdtempSync('/dev/shm/kiln-gpg-');
  try {
    copyKeys(wanted.home, home);
    return await runGpg(wanted, home);
  } finally {
    removeTreeNow(home);
  }
}

async function runGpg({ name, passphrase, ...wanted }: KeyExport, home: string): Promise<string> {
  const gpg = [
    ...['gpg', '--no-options', '--homedir', home, '--batch', '--armor'],
    ...(passphrase === undefined
      ? ['--pinentry-mode', 'error']
      : ['--pinentry-mode', 'loopback', '--passphrase-fd', '0']),
    ...['--export-secret-keys', '--', name],
  ];
  const [program, ...args] = [...CONFINEMENT, ...gpg] as [string, ...string[]];
  const { stdout, failure = '' } = await runTool(program, args, {
    cwd: '/',
    env: { ...ENVIRONMENT, HOME: home },
    timeout: PATIENCE_MS,
    ...defined({ input: passphrase }),
  });
  if (failure === '' && stdout.includes('PRIVATE KEY')) return `${stdout}\n`;
  throw new KilnError('E_SIGN_KEY', `gpg has no secret key called ${name} for the plugin sign`, {
    cause: new Error(failure),
    hint: `\`gpg --homedir ${wanted.home} --list-secret-keys\` lists them; KILN_SIGN_PASSPHRASE opens one with a passphrase`,
  });
}

const CONFINEMENT = [
  ...['unshare', '--mount', '--pid', '--net', '--ipc', '--mount-proc'],
  ...['--fork', '--kill-child=KILL', '--'],
  ...['setpriv', `--reuid=${GPG_ID}`, `--regid=${GPG_ID}`, '--clear-groups', '--no-new-privs'],
  ...['--inh-caps=-all', '--bounding-set=-all', '--'],
];

function copyKeys(source: string, target: string): void {
  const put = (path: string, bytes: Buffer | string) => {
    writeFileSync(join(target, path), bytes, { flag: 'wx', mode: 0o600 });
    chownSync(join(target, path), GPG_ID, GPG_ID);
  };
  for (const folder of [SECRET.folder, dirname(DATABASE)]) {
    mkdirSync(join(target, folder), { mode: 0o700 });
    chownSync(join(target, folder), GPG_ID, GPG_ID);
  }
  using from = closing(openHome(source));
  const common = readBeneath(from.fd, 'common.conf', MAX_CONF)?.toString('latin1') ?? '';
  const hasDatabase = /^\s*use-keyboxd\s*$/m.test(common);
  if (hasDatabase) put('common.conf', 'use-keyboxd\n');
  const copy = (path: string, limit: number) => {
    const bytes = readBeneath(from.fd, path, limit);
    if (bytes !== undefined) put(path, bytes);
  };
  for (const name of hasDatabase ? [...RINGS, DATABASE] : RINGS) copy(name, MAX_RING);
  for (const name of secretKeys(from.fd)) copy(`${SECRET.folder}/${name}`, MAX_SECRET);
  chownSync(target, GPG_ID, GPG_ID);
}

function openHome(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (cause) {
    const what = `${path}, the home of gpg for the plugin sign, cannot be read`;
    throw new KilnError('E_SIGN_KEY', what, {
      cause,
      hint: '%_gpg_path, or GNUPGHOME, names the folder that holds pubring.kbx and private-keys-v1.d',
    });
  }
}

function secretKeys(home: number): string[] {
  using folder = unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP'], () =>
    closing(openDirectory(home, SECRET.folder)),
  );
  if (folder === undefined) return [];
  const names = readdirSync(`/proc/self/fd/${folder.fd}`).filter((it) => SECRET.file.test(it));
  if (names.length <= MAX_SECRETS) return names;
  throw new KilnError('E_SIGN_KEY', `${SECRET.folder} holds more than ${MAX_SECRETS} keys`, {
    hint: 'use a home of gpg for this key alone: %_gpg_path',
  });
}

/** A plain file of the home, if it exists; links are not followed. */
function readBeneath(home: number, path: string, limit: number): Buffer | undefined {
  using file = unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO'], () =>
    closing(openat2(home, path, FILE_BELOW)),
  );
  if (file === undefined) return undefined;
  const stats = fstatSync(file.fd);
  if (!stats.isFile()) return undefined;
  if (stats.size <= limit) return readFileSync(file.fd);
  throw new KilnError('E_SIGN_KEY', `${path} in the home of gpg is larger than ${limit} bytes`, {
    hint: 'use a home of gpg for this key alone: %_gpg_path',
  });
}
