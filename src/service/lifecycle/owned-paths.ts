import { KilnError } from '../../errors.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { readStoredPackage } from '../../image/store/entry.ts';
import { readContents } from '../../image/store/manifest.ts';
import type { RpmPackage } from '../../packages/rpm/package.ts';
import { suggest } from '../../recipe/problem.ts';
import { configuredLines } from '../definition/tmpfiles.ts';
import type { ServiceUnit } from '../unit/service-unit.ts';
import { splitWords } from '../unit/unit-file.ts';
import type { Tree } from './tree.ts';

/** The packages of an image, as far as the store has them; none for an imported image. */
async function* imagePackages(paths: StatePaths, image: string): AsyncGenerator<RpmPackage> {
  const { packages } = await readContents(paths, image).catch(() => ({ packages: [] }));
  for (const { digest } of packages) {
    const stored = readStoredPackage(paths, digest);
    if (stored !== undefined) yield stored.package;
  }
}

/** Configuration below /etc that rpm replaces even when it was changed (%config without noreplace). */
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

/** What a package has below /etc and /var. */
export interface OwnedPaths {
  /** `apache2-2.4.71-1~deb13u1`. */
  readonly package: string;
  /** The topmost folders and files that are its own: /etc/apache2, /var/log/apache2. */
  readonly paths: readonly string[];
}

/** Whose paths {@link ownersOf} looks for. */
interface OwnerRequest {
  readonly units: readonly Pick<ServiceUnit, 'files' | 'directories'>[];
  /** Packages by their names. */
  readonly packages: readonly string[];
}

/**
 * The packages that own the units or are named, with their private paths: what virt-sandbox-service
 * copied for each service. Those are of their payloads, of their tmpfiles.d and sysusers.d, and of
 * the units' StateDirectory= and its kin. Throws E_NO_PACKAGE for a name that no package has.
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
  for (const name of packages) requirePackage(name, all);
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
      // Nobody but the package says so: what others have something in is not its own.
      ...[...declaredPaths(tree, [...each.held]), ...made].filter((path) => !others.has(path)),
    ];
    return { package: each.title, paths: topmost(own.filter((path) => PRIVATE.test(path))) };
  });
}

const PRIVATE = /^\/(?:etc|var)\/./;

/** A package as far as its paths go. */
interface Payload {
  readonly name: string;
  readonly title: string;
  readonly held: ReadonlySet<string>;
}

/** Where a path of a payload is since /lib is a link. */
function usrPath(path: string): string {
  return path.replace(/^\/lib\//, '/usr/lib/');
}

/** What packages have below /etc and /var, and the directories that it lies in. */
function withParents(packages: readonly Payload[]): ReadonlySet<string> {
  const found = new Set<string>();
  for (const path of packages.flatMap(({ held }) => [...held])) {
    if (!PRIVATE.test(path)) continue;
    for (let at = path.length; at > 0; at = path.lastIndexOf('/', at - 1)) {
      found.add(path.slice(0, at));
    }
  }
  return found;
}

function requirePackage(name: string, all: readonly Payload[]): void {
  const known = all.map((each) => each.name);
  if (known.includes(name)) return;
  const near = suggest(name, known);
  throw new KilnError('E_NO_PACKAGE', `the image has no package ${name}`, {
    hint: near === undefined ? '`kiln image show` lists its packages' : `did you mean ${near}?`,
  });
}

/** Those that no other of them is above of. */
function topmost(paths: readonly string[]): string[] {
  const all = new Set(paths);
  const above = (path: string): boolean => {
    for (let at = path.lastIndexOf('/'); at > 0; at = path.lastIndexOf('/', at - 1)) {
      if (all.has(path.slice(0, at))) return true;
    }
    return false;
  };
  return [...all].filter((path) => !above(path)).sort();
}

/** Types of tmpfiles.d(5) that make what they name, or say whose it is. */
const MAKING = new Set('dDvqQefFCpL');

/**
 * What the tmpfiles.d and sysusers.d among `files` name below /etc and /var: directories, files and
 * homes that are made when a package is installed or a system starts, and so are in no payload.
 */
function declaredPaths(tree: Tree, files: readonly string[]): string[] {
  return files
    .flatMap((file) => {
      const [, kind] = /\/(tmpfiles|sysusers)\.d\/[^/]+\.conf$/.exec(file) ?? [];
      if (kind === undefined) return [];
      const lines = configuredLines(tree, file).map((line) =>
        (splitWords(line) ?? []).map(({ text }) => text),
      );
      return lines.map(kind === 'tmpfiles' ? madePath : home);
    })
    .filter((path) => path !== undefined)
    .map((path) => path.replace(/\/+$/, ''));
}

function madePath([type = '', path = '']: readonly string[]): string | undefined {
  return MAKING.has(type.charAt(0)) && isOwnable(path) ? path : undefined;
}

/** sysusers.d(5): type, name, id, gecos, home, shell. */
function home([type = '', , , , path = '']: readonly string[]): string | undefined {
  return type.startsWith('u') && isOwnable(path) ? path : undefined;
}

/** Below /etc or /var, and exactly that: no pattern, no specifier, no way out. */
function isOwnable(path: string): boolean {
  return /^\/(?:etc|var)\/[^/*?[%]/.test(path) && !/[*?[%]|\/\.{1,2}(?:\/|$)/.test(path);
}
