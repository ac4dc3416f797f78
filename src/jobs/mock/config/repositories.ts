import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { stripVTControlCharacters } from 'node:util';
import { defined } from '../../../defined.ts';
import { attempt } from '../../../host/calls/libc.ts';
import { readUserText } from '../../../host/files/user-file.ts';
import type { RepositoryInput } from '../../../packages/repository/configuration-schema.ts';
import { globExpression } from '../../../packages/solver/match.ts';
import { booleanOption, leftOutOfDnf, listOption } from './dnf-options.ts';
import { configError, type Place } from './values.ts';

interface RepositorySettings {
  readonly variables: ReadonlyMap<string, string>;
  readonly switches: readonly RepositorySwitch[];
  readonly place: Place | undefined;
  readonly warn: (message: string, section?: string, option?: string) => void;
}

export interface RepositorySwitch {
  readonly pattern: string;
  readonly enabled: boolean;
}

/**
 * The enabled repositories of a dnf.conf in a recipe's terms. An unsupported option that changes the chosen
 * packages is an error, any other a warning.
 * @throws KilnError E_MOCK_CONFIG
 */
export function readRepositories(conf: DnfConf, settings: RepositorySettings): RepositoryInput[] {
  warnOfOptions('main', conf.main, settings);
  const repositories: RepositoryInput[] = [];
  for (const [id, section] of conf.repositories) {
    if (!isEnabled(id, section, settings.switches)) continue;
    warnOfOptions(id, section, settings);
    repositories.push(readRepository(id, section, conf.main, settings));
  }
  const ids = [...conf.repositories.keys()];
  for (const { pattern, enabled } of settings.switches) {
    if (ids.some((id) => globExpression(pattern).test(id))) continue;
    const option = `--${enabled ? 'enable' : 'disable'}repo`;
    settings.warn(`no repository is called ${pattern} (${option}); there are: ${ids.join(', ')}`);
  }
  return repositories;
}

export function switchedOn(conf: DnfConf, switches: readonly RepositorySwitch[]): string[] {
  return [...conf.repositories]
    .filter(([id, section]) => isEnabled(id, section, switches))
    .filter(([id, section]) => !isEnabled(id, section, []))
    .map(([id]) => id);
}

function isEnabled(
  id: string,
  section: DnfSection,
  switches: readonly RepositorySwitch[],
): boolean {
  const said = switches.findLast(({ pattern }) => globExpression(pattern).test(id));
  return said?.enabled ?? booleanOption(section.get('enabled')) ?? true;
}

function readRepository(
  id: string,
  section: DnfSection,
  main: DnfSection,
  settings: RepositorySettings,
): RepositoryInput {
  const fill = (text: string) => fillVariables(text, id, settings);
  const option = (name: string) => {
    const value = section.get(name) ?? main.get(name);
    return value === undefined || value === '' ? undefined : value;
  };
  const [metalink, mirrorlist] = ['metalink', 'mirrorlist'].map((name) => section.get(name));
  const urls = listOption(section.get('baseurl')).map(fill);
  const source = metalink
    ? { metalink: metalinkUrl(fill(metalink), id, settings) }
    : mirrorlist
      ? mirrorListSource(fill(mirrorlist), id, settings)
      : { baseurl: mirrors(urls) };
  const name = section.get('name');
  const some = (words: readonly string[]) => (words.length > 0 ? words.map(fill) : undefined);
  return {
    id,
    ...defined({ name: name ? stripVTControlCharacters(fill(name)) : undefined }),
    ...source,
    gpgcheck: booleanOption(option('gpgcheck')) ?? false,
    repo_gpgcheck: booleanOption(option('repo_gpgcheck')) ?? false,
    ...defined({
      gpgkey: some(listOption(option('gpgkey'))),
      priority: integer(option('priority')),
      cost: integer(option('cost')),
      excludepkgs: some([...lists(main, EXCLUDES), ...lists(section, EXCLUDES)]),
      includepkgs: some([...lists(main, INCLUDES), ...lists(section, INCLUDES)]),
      module_hotfixes: booleanOption(option('module_hotfixes')) || undefined,
    }),
    ...readAccess(option, fill),
    ...defined({ metadata_expire: metadataExpire(option('metadata_expire')) }),
  };
}

/** Mirrors have the same packages: a folder of this host is taken where it has a repository, and nothing is fetched. */
function mirrors(written: readonly string[]): string[] {
  const urls = written.map((url) => {
    if (url.startsWith('/')) return pathToFileURL(url).href;
    return url.startsWith('file:') ? (URL.parse(url)?.href ?? url) : url;
  });
  const folders = urls.filter((url) => url.startsWith('file:'));
  if (folders.length === 0 || urls.length === 1) return urls;
  const isThere = (url: string) => existsSync(join(fileURLToPath(url), 'repodata/repomd.xml'));
  const found = folders.find((url) => attempt(() => isThere(url)));
  const others = urls.filter((url) => !folders.includes(url));
  return found !== undefined || others.length === 0 ? [found ?? folders[0]!] : others;
}

function metalinkUrl(url: string, id: string, { place }: RepositorySettings): string {
  if (/^https?:/.test(url)) return url;
  throw configError(`repository ${id}: the metalink ${url} is not an http: or https: URL`, place, {
    hint: 'for a folder of this host name it with baseurl; mirrorlist may be a file',
  });
}

const MIRRORLIST_LIMIT = 1024 * 1024;

/** A mirrorlist that is a path, as in dnf; its lines are the URLs. */
function mirrorListSource(written: string, id: string, { place }: RepositorySettings) {
  const path = written.startsWith('file:') ? fileURLToPath(written) : written;
  if (!path.startsWith('/')) return { mirrorlist: written };
  const text = readUserText(path, MIRRORLIST_LIMIT, (cause) =>
    configError(`repository ${id}: cannot read the mirrorlist ${path}`, place, { cause }),
  );
  const urls = text.split('\n').map((line) => line.trim());
  const baseurl = urls.filter((line) => line !== '' && !line.startsWith('#'));
  if (baseurl.length > 0) return { baseurl: mirrors(baseurl) };
  throw configError(`repository ${id}: the mirrorlist ${path} has no URL`, place);
}

const ACCESS = ['username', 'password', 'sslclientcert', 'sslclientkey', 'sslcacert'] as const;

function readAccess(
  option: (name: string) => string | undefined,
  fill: (text: string) => string,
): Partial<RepositoryInput> {
  const given = ACCESS.map((name) => [name, option(name)] as const);
  const known = given.flatMap(([name, value]) =>
    // Variables are not replaced in a password.
    value === undefined ? [] : [[name, name === 'password' ? value : fill(value)]],
  );
  const sslverify = booleanOption(option('sslverify')) === false ? { sslverify: false } : {};
  return { ...Object.fromEntries(known), ...sslverify };
}

const EXCLUDES = ['exclude', 'excludepkgs'];
const INCLUDES = ['includepkgs'];

function lists(section: DnfSection, names: readonly string[]): string[] {
  return names.flatMap((name) => listOption(section.get(name)));
}

function integer(value: string | undefined): number | undefined {
  return value !== undefined && /^\d+$/.test(value) ? Number(value) : undefined;
}

/** dnf's notation: seconds, or with a unit; `-1` and `never` mean never, for which ten years do. */
function metadataExpire(value: string | undefined): number | string | undefined {
  if (value === undefined) return undefined;
  if (value === '-1' || value === 'never') return 10 * 365 * 24 * 3600;
  return /^\d+$/.test(value) ? Number(value) : value;
}

function fillVariables(text: string, id: string, settings: RepositorySettings): string {
  return text.replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, braced?: string, bare?: string) => {
    const value = settings.variables.get(braced ?? bare ?? '');
    if (value !== undefined) return value;
    throw configError(`repository ${id}: ${whole} has no value`, settings.place, {
      hint: "config_opts['dnf_vars'] gives names a value, config_opts['releasever'] $releasever",
    });
  });
}

function warnOfOptions(id: string, section: DnfSection, settings: RepositorySettings): void {
  for (const [name, value] of section) {
    const why = leftOutOfDnf(name, value);
    if (why !== undefined) settings.warn(`[${id}] ${name}=${value} is left out: ${why}`, id, name);
  }
}

export type DnfSection = ReadonlyMap<string, string>;

/** A dnf.conf: `[main]` and the repositories by id, in their order; equal ids are merged. */
export interface DnfConf {
  readonly main: DnfSection;
  readonly repositories: ReadonlyMap<string, DnfSection>;
  readonly unknown: readonly string[];
}

/** Parses the ini dialect of dnf.conf(5) and yum.conf: a value continues in indented lines. */
export function parseDnfConf(text: string): DnfConf {
  const sections = new Map<string, Map<string, string>>();
  const unknown: string[] = [];
  let section: Map<string, string> | undefined;
  let option: string | undefined;
  for (const line of text.split(/\r?\n/)) {
    const trimmed = line.trim();
    const comment = /^[#;]/.test(trimmed) || /^rem\s/i.test(line);
    if (trimmed === '' || comment) {
      if (trimmed === '') option = undefined;
      continue;
    }
    const header = /^\[([^\]]+)\]/.exec(line);
    if (header?.[1] !== undefined) {
      section = sections.get(header[1]) ?? new Map();
      sections.set(header[1], section);
      option = undefined;
    } else if (/^\s/.test(line) && option !== undefined) {
      section?.set(option, `${section.get(option) ?? ''}\n${trimmed}`);
    } else {
      const pair = /^\s*([^\s=:][^=:]*?)\s*[=:]\s*(.*)$/.exec(line);
      if (pair?.[1] === undefined || section === undefined) {
        unknown.push(trimmed);
        continue;
      }
      option = pair[1];
      section.set(option, (pair[2] ?? '').trim());
    }
  }
  const main = sections.get('main') ?? new Map();
  sections.delete('main');
  return { main, repositories: sections, unknown };
}
