/** What a sandbox on this host's own /usr has beside that: read from the host, and written as a tree. */
import {
  chmodSync,
  chownSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt } from '../../host/calls/libc.ts';
import { type Account, ROOT_ACCOUNT } from './accounts.ts';

export const BUILD: Account = {
  ...{ name: 'build', uid: 1000, gid: 1000 },
  ...{ home: '/builddir', shell: '/bin/sh' },
};
const NOBODY: Account = {
  ...{ name: 'nobody', uid: 65534, gid: 65534 },
  ...{ home: '/', shell: '/usr/sbin/nologin' },
};
export const ACCOUNTS = [ROOT_ACCOUNT, BUILD, NOBODY];

export const ENVIRONMENT = {
  PATH: '/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin:/bin:/sbin',
  LANG: 'C.UTF-8',
};

const ALTERNATIVES = '/etc/alternatives';
const LIBRARIES = '/etc/ld.so.cache';
/** Where distributions have the certificates of public authorities, in one file. */
const CERTIFICATES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
];

/** What the tree depends on: it is made again once one of these has changed. */
export const SOURCES = ['/', ALTERNATIVES, LIBRARIES, ...CERTIFICATES];

const FILE_MAX = 16 << 20;
const LINKS_MAX = 10_000;

type Entry =
  | { readonly path: string; readonly mode: number; readonly uid?: number }
  | { readonly path: string; readonly link: string }
  | { readonly path: string; readonly content: Buffer };

/** What of the host goes into the tree, and the folders of the host that the sandbox is shown. */
export interface HostTree {
  readonly entries: readonly Entry[];
  readonly folders: readonly string[];
}

/** @param root the host's, but in tests @throws KilnError E_IMAGE_MISSING */
export function readHost(root = '/'): HostTree {
  const at = (path: string) => join(root, path);
  if (!isFolder(at('/usr'))) {
    throw new KilnError('E_IMAGE_MISSING', 'this host has no /usr to run commands of', {
      hint: 'name another image: `kiln image ls` lists those that are there',
    });
  }
  const top = readdirSync(root).filter((name) => /^(?:bin|sbin|lib(?:\d\d|x32)?)$/.test(name));
  const isOwn = (name: string) => linkAt(at(name)) === undefined && isFolder(at(name));
  const folders = ['usr', ...top.filter(isOwn)].sort().map((name) => `/${name}`);
  const entries: Entry[] = [
    ...[...folders, '/dev', '/proc', '/run', '/var', '/etc', ALTERNATIVES].map(folder),
    ...['/tmp', '/var/tmp'].map((path) => ({ path, mode: 0o1777 })),
    { path: ROOT_ACCOUNT.home, mode: 0o700 },
    { path: BUILD.home, mode: 0o755, uid: BUILD.uid },
    ...top.flatMap((name) => linkInto(root, `/${name}`)),
    ...accountFiles(),
    { path: '/etc/os-release', link: '../usr/lib/os-release' },
    ...names(at(ALTERNATIVES)).flatMap((name) => linkInto(root, `${ALTERNATIVES}/${name}`)),
    ...file(LIBRARIES, plainContent(at(LIBRARIES))),
    ...CERTIFICATES.flatMap((path) => file(path, certificates(at(path)))),
  ];
  const made = new Set(entries.map(({ path }) => path));
  const parents = entries.flatMap(({ path }) => parentsOf(path)).filter((path) => !made.has(path));
  return { entries: [...[...new Set(parents)].sort().map(folder), ...entries], folders };
}

function folder(path: string): Entry {
  return { path, mode: 0o755 };
}

function parentsOf(path: string): string[] {
  const parent = dirname(path);
  return parent === '/' ? [] : [...parentsOf(parent), parent];
}

function file(path: string, content: Buffer | string | undefined): Entry[] {
  return content === undefined ? [] : [{ path, content: Buffer.from(content) }];
}

/** None of them is the host's. */
function accountFiles(): Entry[] {
  const accounts = ACCOUNTS.map(
    ({ name, uid, gid, home, shell }) => `${name}:x:${uid}:${gid}:${name}:${home}:${shell}\n`,
  );
  const groups = [...ACCOUNTS.map(({ name, gid }) => `${name}:x:${gid}:\n`), 'tty:x:5:\n'];
  const lookups = ['passwd: files', 'group: files', 'hosts: files dns', ''];
  return [
    ...file('/etc/passwd', accounts.join('')),
    ...file('/etc/group', groups.join('')),
    ...file('/etc/nsswitch.conf', lookups.join('\n')),
  ];
}

/** A link of the host's that leads to what the sandbox is shown; others would lead nowhere. */
function linkInto(root: string, path: string): Entry[] {
  const link = linkAt(join(root, path));
  const isInto = link !== undefined && /^(?:\/?usr|\/bin|\/sbin|\/lib\w*)(?:\/|$)/.test(link);
  return isInto || (link !== undefined && /^(?:s?bin|lib\w*)$/.test(link)) ? [{ path, link }] : [];
}

function linkAt(path: string): string | undefined {
  return attempt(() => readlinkSync(path));
}

function names(path: string): string[] {
  if (attempt(() => lstatSync(path))?.isDirectory() !== true) return [];
  return readdirSync(path).sort().slice(0, LINKS_MAX);
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
}

/** Of a plain file that everybody may read; nothing else is copied. */
function plainContent(path: string): Buffer | undefined {
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;
  const opened = attempt(() => openSync(path, flags));
  if (opened === undefined) return undefined;
  using held = closing(opened);
  const { mode, size } = fstatSync(held.fd);
  const isPlain = (mode & constants.S_IFMT) === constants.S_IFREG && (mode & 0o004) !== 0;
  return isPlain && size <= FILE_MAX ? readFileSync(held.fd) : undefined;
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\n/g;

/** Certificates alone: a file that has more, such as a key, is taken without that. */
function certificates(path: string): string | undefined {
  const found = plainContent(path)?.toString('latin1').match(CERTIFICATE);
  return found?.join('');
}

/** @returns how many bytes its files have */
export function writeTree(tree: string, entries: readonly Entry[]): number {
  mkdirSync(tree, { recursive: true });
  chmodSync(tree, 0o755);
  let bytes = 0;
  for (const entry of entries) {
    const path = join(tree, entry.path);
    if ('mode' in entry) {
      mkdirSync(path, { recursive: true });
      chmodSync(path, entry.mode);
      chownSync(path, entry.uid ?? 0, entry.uid ?? 0);
    } else if ('link' in entry) {
      symlinkSync(entry.link, path);
    } else {
      writeFileSync(path, entry.content, { flag: 'wx' });
      chmodSync(path, 0o644);
      bytes += entry.content.length;
    }
  }
  return bytes;
}
