import { formatDependency } from '../../packages/rpm/dependency.ts';
import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';
import { readRpms } from '../../packages/rpm/read.ts';
import type { Difference } from '../rpmbuild/outcome/report.ts';

/** Differences that are told; a build that differs everywhere says nothing more with more of them. */
const MAX_DIFFERENCES = 1000;

/** Of a file, what must be equal; times are left out, see {@link comparePackages}. */
const FILE_FIELDS = ['type', 'mode', 'owner', 'group', 'size', 'linkTarget', 'caps'] as const;

/** Of a package, what must be equal as it is. */
const PACKAGE_FIELDS = [
  'os',
  'summary',
  'description',
  'license',
  'group',
  'url',
  'vendor',
  'packager',
  'sourceRpm',
  'scriptlets',
  'triggers',
  'fileTriggers',
] as const;

/** What is different in two sets of packages. */
export interface Comparison {
  readonly differences: readonly Difference[];
  /** The files of packages that both sets have, by the name that differences call them. */
  readonly pairs: ReadonlyMap<string, readonly [string, string]>;
}

/**
 * What is different in two sets of binary packages, file by file. Times of building and of files,
 * and the host's name, are left out: rpmbuild writes them into every package unless the
 * distribution's macros pin them.
 */
export async function comparePackages(
  first: readonly string[],
  second: readonly string[],
  signal?: AbortSignal,
): Promise<Comparison> {
  const before = await byName(first, signal);
  const after = await byName(second, signal);
  const found: Difference[] = [];
  const pairs = new Map<string, readonly [string, string]>();
  for (const [name, a] of before) {
    const b = after.get(name);
    if (b === undefined) found.push({ package: name, what: 'only the first build made it' });
    else {
      found.push(...compare(name, a.rpm, b.rpm));
      pairs.set(name, [a.path, b.path]);
    }
  }
  for (const name of after.keys()) {
    if (!before.has(name)) found.push({ package: name, what: 'only the second build made it' });
  }
  return { differences: found.slice(0, MAX_DIFFERENCES), pairs };
}

async function byName(
  paths: readonly string[],
  signal: AbortSignal | undefined,
): Promise<Map<string, { readonly rpm: RpmPackage; readonly path: string }>> {
  const packages = new Map<string, { readonly rpm: RpmPackage; readonly path: string }>();
  for await (const result of readRpms(paths, { signal })) {
    if (result.error !== undefined) throw result.error;
    const { name, version, release, arch } = result.package;
    const path = paths[result.index] ?? '';
    packages.set(`${name}-${version}-${release}.${arch}`, { rpm: result.package, path });
  }
  return packages;
}

function compare(name: string, a: RpmPackage, b: RpmPackage): Difference[] {
  const found: Difference[] = [];
  for (const field of PACKAGE_FIELDS) {
    if (differ(a[field], b[field])) found.push({ package: name, what: field });
  }
  for (const [kind, list] of Object.entries(a.dependencies)) {
    const other = b.dependencies[kind as keyof typeof b.dependencies];
    if (differ(list.map(formatDependency).sort(), other.map(formatDependency).sort())) {
      found.push({ package: name, what: kind });
    }
  }
  return [...found, ...compareFiles(name, a, b)];
}

function compareFiles(name: string, a: RpmPackage, b: RpmPackage): Difference[] {
  const found: Difference[] = [];
  const others = new Map(b.files.map((file) => [file.path, file]));
  for (const file of a.files) {
    const other = others.get(file.path);
    others.delete(file.path);
    const what = other === undefined ? 'only the first build has it' : differenceOf(file, other);
    if (what !== undefined) found.push({ package: name, path: file.path, what });
  }
  for (const path of others.keys()) {
    found.push({ package: name, path, what: 'only the second build has it' });
  }
  return found;
}

function differenceOf(a: RpmFile, b: RpmFile): string | undefined {
  const fields = FILE_FIELDS.filter((field) => differ(a[field], b[field]));
  // What a packager's file system says of a directory's size means nothing.
  const real = fields.filter((field) => !(field === 'size' && a.type === 'directory'));
  if (a.digest !== b.digest) return ['content', ...real].join(', ');
  return real.length === 0 ? undefined : real.join(', ');
}

function differ(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) !== JSON.stringify(b);
}
