/**
 * What differs in the content of two files, for a person who looks for the reason. The files are
 * unpacked by confined children; here they are read as bytes, and nothing in them is interpreted.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { hasErrno } from '../../host/calls/libc.ts';
import { openat2, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS } from '../../host/files/at.ts';
import { unpackRpms } from '../../packages/rpm/unpack.ts';
import type { Difference } from '../rpmbuild/outcome/report.ts';
import type { Comparison } from './compare.ts';

/** Files that are looked into, their size in bytes, and the lines that are told of each. */
const MAX_FILES = 20;
const MAX_SIZE = 64 * 2 ** 20;
const MAX_LINES = 3;
const LINE_LENGTH = 160;

/**
 * Adds to differences in content what it is that differs: lines of texts, words of programs.
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

/** A plain file below `tree`; undefined for links, for what is no file, and for what is too large. */
function readBeneath(tree: string, path: string): Buffer | undefined {
  const root = openSync(tree, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    const fd = openat2(root, path.replace(/^\/+/, ''), {
      flags: constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOFOLLOW,
      resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    });
    try {
      const stats = fstatSync(fd);
      return stats.isFile() && stats.size <= MAX_SIZE ? readFileSync(fd) : undefined;
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO')) return undefined;
    throw error;
  } finally {
    closeSync(root);
  }
}

/** What differs, in lines: `-` of the first, `+` of the second. */
export function contentDifference(first: Buffer, second: Buffer): string[] {
  const binary = [first, second].some((bytes) => bytes.subarray(0, 8192).includes(0));
  const [a, b] = [first, second].map((bytes) => (binary ? words(bytes) : lines(bytes)));
  const [before, after] = [new Set(a), new Set(b)];
  const gone = [...before].filter((line) => !after.has(line)).slice(0, MAX_LINES);
  const come = [...after].filter((line) => !before.has(line)).slice(0, MAX_LINES);
  const told = [...gone.map((line) => `-${cut(line)}`), ...come.map((line) => `+${cut(line)}`)];
  if (told.length > 0) return told;
  const end = Math.min(first.length, second.length);
  let at = 0;
  while (at < end && first[at] === second[at]) at++;
  return [`the first byte that differs is ${at}, of ${first.length} and ${second.length}`];
}

function lines(bytes: Buffer): string[] {
  return bytes.toString('utf8').split('\n');
}

/** Runs of printable ASCII, as strings(1) finds them. */
function words(bytes: Buffer): string[] {
  return bytes.toString('latin1').match(/[\x20-\x7e\t]{4,}/g) ?? [];
}

function cut(text: string): string {
  return text.length > LINE_LENGTH ? `${text.slice(0, LINE_LENGTH)}…` : text;
}
