import { isAbsolute, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { z } from 'zod';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import type { RepositoryConfiguration } from './configuration-schema.ts';
import type { LockedRepository, sourceSchema } from './lock/lock.ts';
import { type AccessOptions, RepositoryAccess } from './transport/access.ts';

export type RepositorySource = Readonly<z.output<typeof sourceSchema>>;

export interface Repository {
  readonly id: string;
  readonly name: string;
  readonly source: RepositorySource;
  readonly access?: RepositoryAccess | undefined;
  readonly gpgcheck: boolean;
  readonly repoGpgcheck: boolean;
  readonly gpgkey: readonly string[];
  /** A folder out of which no link leads to its files, nor to its keys. Undefined: links may lead anywhere. */
  readonly below?: string | undefined;
  /** 1 (preferred) to 99, as in dnf. */
  readonly priority: number;
  readonly cost: number;
  readonly excludepkgs: readonly string[];
  readonly includepkgs: readonly string[];
  readonly moduleHotfixes: boolean;
  /** Seconds. */
  readonly metadataExpire: number;
}

export interface ResolveOptions {
  readonly arch: string;
  readonly releasever?: string | undefined;
  readonly baseDirectory: string;
  readonly place?: (path: string, kind: 'file' | 'folder') => string;
  /** As of a {@link Repository}. */
  readonly below?: string | undefined;
}

/** dnf's `$basearch` for an architecture where the two differ (dnf's rpm/__init__.py). */
const BASEARCH: Readonly<Record<string, string>> = {
  i486: 'i386',
  i586: 'i386',
  i686: 'i386',
  athlon: 'i386',
  x86_64_v2: 'x86_64',
  x86_64_v3: 'x86_64',
  x86_64_v4: 'x86_64',
  amd64: 'x86_64',
  armv7hl: 'armhfp',
  armv7hnl: 'armhfp',
};

export function basearchOf(arch: string): string {
  return BASEARCH[arch] ?? arch;
}

/**
 * Fills in variables, makes paths absolute, and applies defaults that depend on the repository's place.
 * @throws KilnError E_REPOSITORY_CONFIGURATION for an unknown variable, E_REPOSITORY_KEYS when keys
 * are needed and none is named.
 */
export function resolveRepository(
  configuration: RepositoryConfiguration,
  options: ResolveOptions,
): Repository {
  const { id, name = id, priority, cost, excludepkgs, includepkgs } = configuration;
  const expand = (text: string) => expandVariables(id, text, options);
  const { baseDirectory, place = (path) => path, below } = options;
  const path = (text: string) => place(absolute(expand(text), baseDirectory), 'file');
  const folder = (text: string) => place(absolute(expand(text), baseDirectory), 'folder');
  const { source, login } = withoutLogin(resolveSource(configuration, expand, folder));
  const access = resolveAccess(configuration, source, login, { path, below });
  const remote = source.kind !== 'directory';
  const gpgcheck = configuration.gpgcheck ?? remote;
  const repoGpgcheck = configuration.repo_gpgcheck ?? false;
  const gpgkey = (configuration.gpgkey ?? []).map(path);
  if ((gpgcheck || repoGpgcheck) && gpgkey.length === 0) {
    throw new KilnError(
      'E_REPOSITORY_KEYS',
      `repository ${id}: signatures are to be checked, but no gpgkey is named`,
      { hint: 'name the key files with gpgkey, or write gpgcheck: false if you trust the source' },
    );
  }
  return {
    id,
    name,
    source,
    access,
    gpgcheck,
    repoGpgcheck,
    gpgkey,
    below,
    ...{ priority, cost, excludepkgs, includepkgs },
    moduleHotfixes: configuration.module_hotfixes,
    metadataExpire: configuration.metadata_expire,
  };
}

function resolveSource(
  configuration: RepositoryConfiguration,
  expand: (text: string) => string,
  folder: (text: string) => string,
): RepositorySource {
  const { id, baseurl, metalink, mirrorlist, directory } = configuration;
  if (directory !== undefined) return { kind: 'directory', path: folder(directory) };
  if (metalink !== undefined) return { kind: 'metalink', url: expand(metalink) };
  if (mirrorlist !== undefined) return { kind: 'mirrorlist', url: expand(mirrorlist) };
  const urls = (baseurl ?? []).map(expand);
  const first = urls.find((url) => url.startsWith('file:'));
  if (first === undefined) return { kind: 'baseurl', urls };
  if (urls.length > 1) {
    throw new KilnError(
      'E_REPOSITORY_CONFIGURATION',
      `repository ${id}: a file: URL stands alone, it has no mirrors`,
      { hint: 'make two repositories of it' },
    );
  }
  return { kind: 'directory', path: folder(first) };
}

interface Login {
  readonly username?: string | undefined;
  readonly password?: string | undefined;
}

/** Removes `user:password@` from URLs, because URLs are written into locks and logs. */
function withoutLogin(source: RepositorySource) {
  if (source.kind === 'directory') return { source, login: undefined };
  const logins: Login[] = [];
  const strip = (text: string) => {
    const url = URL.parse(text);
    if (url === null || (url.username === '' && url.password === '')) return text;
    const [username, password] = [url.username, url.password].map(decodeURIComponent);
    logins.push({ username, password });
    url.username = url.password = '';
    return url.href;
  };
  const stripped: RepositorySource =
    source.kind === 'baseurl'
      ? { kind: 'baseurl', urls: source.urls.map(strip) }
      : { kind: source.kind, url: strip(source.url) };
  return { source: stripped, login: logins[0] };
}

function resolveAccess(
  { id, ...options }: RepositoryConfiguration,
  source: RepositorySource,
  login: Login | undefined,
  { path, below }: { path: (text: string) => string; below: string | undefined },
): RepositoryAccess | undefined {
  const file = (text: string | undefined) => (text === undefined ? undefined : path(text));
  const access: AccessOptions = {
    username: options.username ?? login?.username,
    password: options.password ?? (options.username === undefined ? login?.password : undefined),
    passwordFile: file(options.password_file),
    tokenFile: file(options.token_file),
    certificate: file(options.sslclientcert),
    key: file(options.sslclientkey),
    authorities: file(options.sslcacert),
    verify: options.sslverify ?? true,
    below,
  };
  const { verify, below: _, ...others } = access;
  if (verify && Object.values(others).every((value) => value === undefined)) return undefined;
  if (source.kind === 'directory') {
    throw new KilnError(
      'E_REPOSITORY_CONFIGURATION',
      `repository ${id}: a folder of this host has no login and no certificates`,
      { hint: 'leave username, password_file, token_file and ssl… out' },
    );
  }
  const urls = source.kind === 'baseurl' ? source.urls : [source.url];
  return new RepositoryAccess(id, urls, access);
}

function expandVariables(id: string, text: string, options: ResolveOptions): string {
  const values: Readonly<Record<string, string | undefined>> = {
    arch: options.arch,
    basearch: basearchOf(options.arch),
    releasever: options.releasever,
  };
  return text.replace(/\$(?:\{(\w+)\}|(\w+))/g, (_, braced: string | undefined, bare: string) => {
    const name = braced ?? bare;
    const value = values[name];
    if (value !== undefined) return value;
    throw new KilnError(
      'E_REPOSITORY_CONFIGURATION',
      `repository ${id}: $${name} in ${text} has no value`,
      { hint: 'known variables are $arch, $basearch and $releasever (set `releasever`)' },
    );
  });
}

function absolute(path: string, baseDirectory: string): string {
  if (path.startsWith('file:')) return fileURLToPath(path);
  return isAbsolute(path) ? resolve(path) : resolve(baseDirectory, path);
}

/** What a lock has of a repository. */
export function lockedRepository({ id, source, gpgcheck, gpgkey, below }: Repository) {
  return { id, source, gpgcheck, gpgkey: [...gpgkey], ...defined({ below }) };
}

/** A repository of a lock, with dnf's defaults for everything that a lock does not have. */
export function unlockedRepository({
  id,
  source,
  gpgcheck,
  gpgkey,
  below,
}: LockedRepository): Repository {
  return {
    ...{ id, name: id, source, gpgcheck, repoGpgcheck: false, gpgkey, below },
    ...{ priority: 99, cost: 1000, excludepkgs: [], includepkgs: [] },
    ...{ moduleHotfixes: false, metadataExpire: 6 * 3600 },
  };
}

/** A repository that kiln published: among equal packages its own are preferred, as in mock's chains. */
export function localRepository(id: string, path: string, name = id): Repository {
  const source = { kind: 'directory', path } as const;
  const usual = unlockedRepository({ id, source, gpgcheck: false, gpgkey: [] });
  return { ...usual, name, cost: 1, metadataExpire: 0 };
}
