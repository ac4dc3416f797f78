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

/** The packages of an image that the store has; none for an imported image. */
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

/** A package's paths below /etc and /var. */
export interface OwnedPaths {
  /** `apache2-2.4.71-1~deb13u1`. */
  readonly package: string;
  /** The topmost folders and files that only this package has: /etc/apache2, /var/log/apache2. */
  readonly paths: readonly string[];
}

/** Selects the packages for {@link ownersOf}. */
interface OwnerRequest {
  readonly units: readonly Pick<ServiceUnit, 'files' | 'directories'>[];
  /** Packages by their names. */
  readonly packages: readonly string[];
}

/**
 * The packages that own the units or are named, with their private paths, which virt-sandbox-service copied for
 * each service. The paths come from their payloads, their tmpfiles.d and sysusers.d, and from StateDirectory=
 * and the like in the units. Throws E_NO_PACKAGE for an unknown name.
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
      // Only the package's own declaration names these paths, so leave out those in which others have files.
      ...[...declaredPaths(tree, [...each.held]), ...made].filter((path) => !others.has(path)),
    ];
    return { package: each.title, paths: topmost(own.filter((path) => PRIVATE.test(path))) };
  });
}

const PRIVATE = /^\/(?:etc|var)\/./;

/** The paths of a package. */
interface Payload {
  readonly name: string;
  readonly title: string;
  readonly held: ReadonlySet<string>;
}

/** The place of a payload's path now that /lib is a link. */
function usrPath(path: string): string {
  return path.replace(/^\/lib\//, '/usr/lib/');
}

/** All packages' paths below /etc and /var, with the directories above them. */
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

/** The paths without those that lie below another one. */
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

/** Types of tmpfiles.d(5) that make a path or set its owner. */
const MAKING = new Set('dDvqQefFCpL');

/**
 * The paths below /etc and /var that the tmpfiles.d and sysusers.d among `files` name. These directories, files
 * and homes are made at installation or start, so no payload has them.
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

/** Whether a path lies below /etc or /var and is plain: no pattern, no specifier, no `..`. */
function isOwnable(path: string): boolean {
  return /^\/(?:etc|var)\/[^/*?[%]/.test(path) && !/[*?[%]|\/\.{1,2}(?:\/|$)/.test(path);
}
