import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { readStoredPackage } from '../../image/store/entry.ts';
import { readContents } from '../../image/store/manifest.ts';
import { readAccounts, readGroups } from '../../image/tree/accounts.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import type { SandboxDirectory } from '../../sandbox/command/control.ts';
import { suggestion } from '../../suggest.ts';
import type { ServiceUnit } from '../unit/read-unit.ts';
import { plainWords } from '../unit/unit-file.ts';
import type { Tree } from './tree.ts';

async function* imagePackages(paths: StatePaths, image: string): AsyncGenerator<RpmPackage> {
  const { packages } = await readContents(paths, image).catch(() => ({ packages: [] }));
  for (const { digest } of packages) {
    const stored = readStoredPackage(paths, digest);
    if (stored !== undefined) yield stored.package;
  }
}

/** Configuration files below /etc that rpm replaces even if they were changed (%config without noreplace). */
export async function replacedConfiguration(
  paths: StatePaths,
  image: string,
): Promise<Set<string>> {
  const found = new Set<string>();
  for await (const { files } of imagePackages(paths, image)) {
    for (const { path, flags } of files) {
      if (!path.startsWith('/etc/') || !flags.includes('config')) continue;
      if (!flags.includes('noreplace')) found.add(path.slice('/etc/'.length));
    }
  }
  return found;
}

export interface OwnedPaths {
  readonly package: string;
  readonly paths: readonly string[];
}

interface Owning {
  readonly files: ServiceUnit['files'];
  readonly directories: ServiceUnit['directories'];
}

interface OwnerRequest {
  readonly units: readonly Owning[];
  readonly packages: readonly string[];
}

/**
 * The packages that own the units or are named, with their private paths: those of payloads, of tmpfiles.d
 * and sysusers.d, and of StateDirectory= and the like. Throws E_NO_PACKAGE for an unknown name.
 */
export async function ownersOf(
  paths: StatePaths,
  image: string,
  tree: Tree,
  { units, packages }: OwnerRequest,
): Promise<OwnedPaths[]> {
  const all: Payload[] = [];
  for await (const { name, version, release, files } of imagePackages(paths, image)) {
    const held = new Set(files.map(({ path }) => usrPath(path)));
    all.push({ name, title: `${name}-${version}-${release}`, held });
  }
  const known = all.map(({ name }) => name);
  const missing = packages.find((name) => !known.includes(name));
  if (missing !== undefined) {
    throw new KilnError('E_NO_PACKAGE', `the image has no package ${missing}`, {
      hint: suggestion(missing, known, '`kiln image show` lists its packages'),
    });
  }
  const unitsOf = ({ held }: Payload) =>
    units.filter(({ files }) => files.some((path) => held.has(usrPath(path))));
  const chosen = all.filter((each) => packages.includes(each.name) || unitsOf(each).length > 0);
  const holders = new Map<string, number>();
  for (const path of all.flatMap(({ held }) => [...held])) {
    holders.set(path, (holders.get(path) ?? 0) + 1);
  }
  const others = withParents(all.filter((each) => !chosen.includes(each)));
  return chosen.map((each) => {
    const made = unitsOf(each).flatMap(({ directories }) => directories.map(({ path }) => path));
    const own = [
      ...[...each.held].filter((path) => holders.get(path) === 1),
      // Only the package's own declaration names these paths, so leave out those in which others have files.
      ...[...declaredPaths(tree, [...each.held]), ...made].filter((path) => !others.has(path)),
    ];
    return { package: each.title, paths: topmost(own.filter((path) => PRIVATE.test(path))) };
  });
}

const PRIVATE = /^\/(?:etc|var)\/./;

interface Payload {
  readonly name: string;
  readonly title: string;
  readonly held: ReadonlySet<string>;
}

function usrPath(path: string): string {
  return path.replace(/^\/lib\//, '/usr/lib/');
}

function withParents(packages: readonly Payload[]): ReadonlySet<string> {
  const found = new Set<string>();
  for (const path of packages.flatMap(({ held }) => [...held])) {
    if (!PRIVATE.test(path)) continue;
    for (const each of [path, ...parents(path)]) found.add(each);
  }
  return found;
}

function* parents(path: string): Generator<string> {
  for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
    yield path.slice(0, at);
  }
}

function topmost(paths: readonly string[]): string[] {
  const all = new Set(paths);
  return [...all].filter((path) => ![...parents(path)].some((above) => all.has(above))).sort();
}

const MAKING = new Set('dDvqQefFCpL');

/** tmpfiles.d and sysusers.d make these at installation or start, so no payload has them. */
function declaredPaths(tree: Tree, files: readonly string[]): string[] {
  return files
    .flatMap((file) => {
      const [, kind] = /\/(tmpfiles|sysusers)\.d\/[^/]+\.conf$/.exec(file) ?? [];
      if (kind === undefined) return [];
      const lines = configuredLines(tree, file).map(plainWords);
      return lines.map(kind === 'tmpfiles' ? madePath : home);
    })
    .filter((path) => path !== undefined)
    .map((path) => path.replace(/\/+$/, ''));
}

function madePath([type = '', path = '']: readonly string[]): string | undefined {
  return MAKING.has(type.charAt(0)) && isOwnable(path) ? path : undefined;
}

function home([type = '', , , , path = '']: readonly string[]): string | undefined {
  return type.startsWith('u') && isOwnable(path) ? path : undefined;
}

function isOwnable(path: string): boolean {
  return /^\/(?:etc|var)\/[^/*?[%]/.test(path) && !/[*?[%]|\/\.{1,2}(?:\/|$)/.test(path);
}

/** Of tmpfiles.d(5), in order. */
const FOLDERS = ['/etc/tmpfiles.d', '/run/tmpfiles.d', '/usr/lib/tmpfiles.d'];

/** Types that make a directory; `e` only changes an existing one. */
const DIRECTORY_TYPES = new Set(['d', 'D', 'v', 'q', 'Q']);

const VOLATILE = /^\/(?:run|tmp|var\/tmp)\//;

/** Directories of a booted systemd: they mean nothing for a service without one. */
const SYSTEMD = /^\/run\/(?:systemd|credstore|log|user|nologin|shm)/;

/** The tree may be hostile, so the number is bounded. */
const DIRECTORIES_MAX = 1000;

/**
 * Directories that the image's tmpfiles.d makes in /run and /tmp, which are empty at every start of a service; `undone`
 * are the lines that are not obeyed.
 */
export function tmpfilesPlan(tree: Tree) {
  const directories = new Map<string, SandboxDirectory>();
  const undone: string[] = [];
  const accounts = readAccounts(tree.root);
  const groups = readGroups(tree.root);
  for (const { file, line } of configurationLines(tree)) {
    const [type = '', rawPath = '', mode = '-', user = '-', group = '-'] = plainWords(line);
    const path = rawPath.replace(/^\/var\/run\//, '/run/').replace(/\/+$/, '');
    if (!VOLATILE.test(path) || SYSTEMD.test(path) || /%|\/\.\.(?:\/|$)/.test(path)) continue;
    const kind = type.replace(/[!+=~^$-]/g, '');
    if (!DIRECTORY_TYPES.has(kind)) {
      if (!'rRxX'.includes(kind)) undone.push(`${file}: ${line}`);
      continue;
    }
    if (directories.has(path) || directories.size === DIRECTORIES_MAX) continue;
    const uid = idOf(user, accounts.find(({ name }) => name === user)?.uid);
    const gid = idOf(group, groups.find(({ name }) => name === group)?.gid);
    const bits = Number.parseInt(mode.replace(/^[~:]+/, ''), 8);
    if (uid === undefined || gid === undefined) undone.push(`${file}: ${line}`);
    else
      directories.set(path, { path, mode: Number.isNaN(bits) ? 0o755 : bits & 0o7777, uid, gid });
  }
  const sorted = [...directories.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
  return { directories: sorted, undone };
}

function idOf(text: string, named: number | undefined): number | undefined {
  if (text === '-' || text === '') return 0;
  return named ?? (/^\d{1,5}$/.test(text) ? Number(text) : undefined);
}

function* configurationLines(tree: Tree): Generator<{ file: string; line: string }> {
  for (const file of tree.configuration(FOLDERS)) {
    for (const line of configuredLines(tree, file)) yield { file, line };
  }
}

function configuredLines(tree: Tree, file: string): string[] {
  const lines = (tree.readText(file) ?? '').split('\n').map((line) => line.trim());
  return lines.filter((line) => line !== '' && !line.startsWith('#'));
}
