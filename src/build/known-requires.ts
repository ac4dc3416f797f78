/**
 * What a source package turned out to require the last time, so that its build can start in the
 * right image at once. It is a guess: what the package says in the box decides.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { digestOf } from '../result/digest.ts';
import type { StatePaths } from '../state/paths.ts';
import type { BuildInput } from './input.ts';
import type { BuildRequest } from './request.ts';
import { specOptions } from './rpmbuild.ts';

const schema = z.array(z.string().max(65536)).max(100_000);

/** So many are kept; a file has some hundred bytes. */
const KEPT = 4000;

/** Where the answer for this input is kept; undefined for what is not known by a digest. */
export function knownRequiresPath(
  paths: StatePaths,
  input: BuildInput,
  request: BuildRequest,
  baseImage: string,
): string | undefined {
  if (input.digest === undefined) return undefined;
  const name = digestOf([input.digest, baseImage, specOptions(request)]);
  return join(paths.cache, 'requires', `${name}.json`);
}

/** Undefined when there is no answer, or none that can be read. */
export async function knownRequires(path: string | undefined): Promise<string[] | undefined> {
  if (path === undefined) return undefined;
  try {
    const known = schema.parse(JSON.parse(await readFile(path, 'utf8')));
    const now = new Date();
    await utimes(path, now, now);
    return known;
  } catch {
    return undefined;
  }
}

/** Keeps an answer. One that cannot be kept is no harm. */
export async function keepRequires(
  path: string | undefined,
  requires: readonly string[],
): Promise<void> {
  if (path === undefined) return;
  const directory = join(path, '..');
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    await mkdir(directory, { recursive: true });
    await writeFile(temporary, JSON.stringify(requires));
    await rename(temporary, path);
    await prune(directory);
  } catch {
    await rm(temporary, { force: true }).catch(() => undefined);
  }
}

async function prune(directory: string): Promise<void> {
  const names = await readdir(directory);
  if (names.length <= KEPT) return;
  const dated = await Promise.all(
    names.map(async (name) => {
      const path = join(directory, name);
      return { path, used: (await stat(path).catch(() => undefined))?.mtimeMs ?? 0 };
    }),
  );
  dated.sort((a, b) => a.used - b.used);
  for (const { path } of dated.slice(0, names.length - KEPT / 2)) await rm(path, { force: true });
}
