import { readFile } from 'node:fs/promises';
import { KilnError } from '../errors.ts';
import { readContents } from '../image/store/contents.ts';
import { entryFile, packageDirectory } from '../image/store/packages.ts';
import { suggest } from '../recipe/suggest.ts';
import type { RpmPackage } from '../rpm/package.ts';
import type { StatePaths } from '../state/paths.ts';

/** The packages of an image, as far as the store has them; none for an imported image. */
async function* imagePackages(paths: StatePaths, image: string): AsyncGenerator<RpmPackage> {
  const { packages } = await readContents(paths, image).catch(() => ({ packages: [] }));
  for (const { digest } of packages) {
    const file = entryFile(packageDirectory(paths, digest));
    const text = await readFile(file, 'utf8').catch(() => undefined);
    if (text !== undefined) yield (JSON.parse(text) as { package: RpmPackage }).package;
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

/**
 * The packages that own one of `files` or are called one of `names`, with their private paths:
 * what virt-sandbox-service copied for each service. Throws E_NO_PACKAGE for a name that none has.
 */
export async function ownersOf(
  paths: StatePaths,
  image: string,
  files: readonly string[],
  names: readonly string[],
): Promise<OwnedPaths[]> {
  const wanted = new Set(files.flatMap((path) => [path, path.replace(/^\/lib\//, '/usr/lib/')]));
  const all: RpmPackage[] = [];
  for await (const each of imagePackages(paths, image)) all.push(each);
  const holders = new Map<string, number>();
  for (const { files: owned } of all) {
    for (const { path } of owned) holders.set(path, (holders.get(path) ?? 0) + 1);
  }
  for (const name of names) requirePackage(name, all);
  const chosen = all.filter(
    ({ name, files: owned }) => names.includes(name) || owned.some(({ path }) => wanted.has(path)),
  );
  return chosen.map(({ name, version, release, files: owned }) => ({
    package: `${name}-${version}-${release}`,
    paths: topmost(
      owned
        .map(({ path }) => path)
        .filter((path) => /^\/(?:etc|var)\/./.test(path) && holders.get(path) === 1),
    ),
  }));
}

function requirePackage(name: string, all: readonly RpmPackage[]): void {
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
