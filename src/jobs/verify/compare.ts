import { constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { closing } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { FILE_BELOW, openat2 } from '../../host/files/at.ts';
import { formatDependency } from '../../packages/rpm/dependency.ts';
import type { RpmFile, RpmPackage } from '../../packages/rpm/package.ts';
import { readRpms } from '../../packages/rpm/read.ts';
import { unpackRpms } from '../../packages/rpm/unpack.ts';
import type { Difference } from '../rpmbuild/outcome/report.ts';

const MAX_DIFFERENCES = 1000;

const FILE_FIELDS = ['type', 'mode', 'owner', 'group', 'size', 'linkTarget', 'caps'] as const;

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

interface Comparison {
  readonly differences: readonly Difference[];
  readonly pairs: ReadonlyMap<string, readonly [string, string]>;
}

/**
 * Compares two sets of binary packages, file by file, without times and the host's name: rpmbuild writes them
 * into every package unless the distribution's macros pin them.
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
  // A directory's size depends on the file system.
  const real = fields.filter((field) => !(field === 'size' && a.type === 'directory'));
  if (a.digest !== b.digest) return ['content', ...real].join(', ');
  return real.length === 0 ? undefined : real.join(', ');
}

function differ(a: unknown, b: unknown): boolean {
  return JSON.stringify(a) !== JSON.stringify(b);
}

const MAX_FILES = 20;
const MAX_SIZE = 64 * 2 ** 20;
const MAX_LINES = 3;
const LINE_LENGTH = 160;

/**
 * Adds the lines of texts and the words of programs that differ. Confined children unpack the files, whose bytes
 * are compared here without interpreting them.
 * @param work an empty directory that may be written to
 */
export async function explainContent(
  differences: readonly Difference[],
  pairs: Comparison['pairs'],
  work: string,
  signal?: AbortSignal,
): Promise<Difference[]> {
  const chosen = differences.filter(({ path, what }) => path && what.startsWith('content'));
  const explained = chosen.slice(0, MAX_FILES);
  const names = [...new Set(explained.map((difference) => difference.package))];
  const trees = await unpackPairs(names, pairs, work, signal);
  return differences.map((difference) => {
    const sides = trees.get(difference.package);
    if (!explained.includes(difference) || sides === undefined) return difference;
    const [first, second] = sides.map((tree) => readBeneath(tree, difference.path ?? ''));
    if (first === undefined || second === undefined) return difference;
    return { ...difference, detail: contentDifference(first, second) };
  });
}

async function unpackPairs(
  names: readonly string[],
  pairs: Comparison['pairs'],
  work: string,
  signal: AbortSignal | undefined,
): Promise<Map<string, readonly [string, string]>> {
  const jobs = names.flatMap((name, index) =>
    (pairs.get(name) ?? []).map((file, side) => ({ file, into: `${index}-${side}` })),
  );
  await mkdir(work, { recursive: true, mode: 0o700 });
  const options = { root: work, policy: 'allow-unsigned', ...(signal && { signal }) } as const;
  const failed = new Set<string>();
  for await (const result of unpackRpms(jobs, options)) {
    if ('error' in result) failed.add(result.job.into);
  }
  const trees = new Map<string, readonly [string, string]>();
  for (const [index, name] of names.entries()) {
    if (failed.has(`${index}-0`) || failed.has(`${index}-1`)) continue;
    trees.set(name, [join(work, `${index}-0`), join(work, `${index}-1`)]);
  }
  return trees;
}

/** A plain file below `tree`; undefined for links, anything that is no file, and files that are too large. */
function readBeneath(tree: string, path: string): Buffer | undefined {
  using root = closing(openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY));
  using file = unlessErrno(['ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO'], () =>
    closing(openat2(root.fd, path.replace(/^\/+/, ''), FILE_BELOW)),
  );
  if (file === undefined) return undefined;
  const stats = fstatSync(file.fd);
  return stats.isFile() && stats.size <= MAX_SIZE ? readFileSync(file.fd) : undefined;
}

export function contentDifference(first: Buffer, second: Buffer): string[] {
  const binary = [first, second].some((bytes) => bytes.subarray(0, 8192).includes(0));
  const parts = (bytes: Buffer) =>
    new Set(binary ? words(bytes) : bytes.toString('utf8').split('\n'));
  const [before, after] = [parts(first), parts(second)];
  const gone = [...before].filter((line) => !after.has(line)).slice(0, MAX_LINES);
  const come = [...after].filter((line) => !before.has(line)).slice(0, MAX_LINES);
  const told = [...gone.map((line) => `-${cut(line)}`), ...come.map((line) => `+${cut(line)}`)];
  if (told.length > 0) return told;
  const end = Math.min(first.length, second.length);
  let at = 0;
  while (at < end && first[at] === second[at]) at++;
  return [`the first byte that differs is ${at}, of ${first.length} and ${second.length}`];
}

/** Runs of printable ASCII, as strings(1) finds them. */
function words(bytes: Buffer): string[] {
  return bytes.toString('latin1').match(/[\x20-\x7e\t]{4,}/g) ?? [];
}

function cut(text: string): string {
  return text.length > LINE_LENGTH ? `${text.slice(0, LINE_LENGTH)}…` : text;
}
