/**
 * The packages of a published repository, each once, named by its digest: a copy of the file, and data from its
 * header. Snapshots contain links to them.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, constants, existsSync } from 'node:fs';
import { copyFile, lstat, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { attempt } from '../../../host/calls/libc.ts';
import { readUserFile } from '../../../host/files/user-file.ts';
import { openFile, type RpmPackage } from '../../rpm/package.ts';
import { readRpms } from '../../rpm/read.ts';
import { sha256Of, writeWhole } from '../cache.ts';
import { locationFault } from '../transport/location.ts';
import { packageElements } from './repodata.ts';

const FORMAT = 1;

const MAX_ENTRY = 256 * 2 ** 20;

const text = z.string();
const pooledSchema = z.strictObject({
  format: z.literal(FORMAT),
  sha256: text,
  size: z.int().min(0),
  name: text,
  epoch: z.int().min(0).nullable(),
  version: text,
  release: text,
  arch: text,
  sourceRpm: text.nullable(),
  buildTime: z.int().min(0).nullable(),
  location: text,
  provides: z.array(
    z.strictObject({
      name: text,
      operator: z.enum(['', '<', '<=', '=', '>=', '>', '<>', '<>=']),
      version: text,
    }),
  ),
  elements: z.strictObject({ primary: text, filelists: text, other: text }),
});

export type PooledPackage = Readonly<z.output<typeof pooledSchema>>;

export function pooledFile(pool: string, sha256: string): string {
  return join(pool, `${sha256}.rpm`);
}

/**
 * Adds packages to the pool; headers of known ones are not read again.
 * @param files they are copied; one whose sha256 is given and in the pool is not read
 * @returns what the pool has of each file, in order
 * @throws KilnError E_RPM_FORMAT, E_RPM_DIGEST of the first file that is no good package
 */
export async function addToPool(
  pool: string,
  files: readonly { readonly path: string; readonly sha256?: string }[],
  signal?: AbortSignal,
): Promise<PooledPackage[]> {
  const digests: string[] = [];
  const fresh: string[] = [];
  const known = new Map<string, PooledPackage>();
  for (const { path, sha256: told } of files) {
    signal?.throwIfAborted();
    const sha256 =
      told !== undefined && existsSync(pooledFile(pool, told)) ? told : await copyIn(pool, path);
    digests.push(sha256);
    if (known.has(sha256) || fresh.includes(sha256)) continue;
    const pooled = readPooled(pool, sha256);
    if (pooled === undefined) fresh.push(sha256);
    else known.set(sha256, pooled);
  }
  // Reads the copy, because the original may have changed since.
  const paths = fresh.map((sha256) => pooledFile(pool, sha256));
  for await (const { index, package: rpm, error } of readRpms(paths, { depth: 'header', signal })) {
    const sha256 = fresh[index]!;
    const { path } = files[digests.indexOf(sha256)]!;
    if (error !== undefined) {
      const { code, hint, cause } = error;
      const message = error.message.replace(paths[index]!, path);
      throw new KilnError(code, message, { hint, cause });
    }
    const pooled = describe(rpm, sha256, path);
    await writeWhole(entryFile(pool, sha256), JSON.stringify(pooled));
    known.set(sha256, pooled);
  }
  return digests.map((sha256) => known.get(sha256)!);
}

export async function prunePool(pool: string, keep: ReadonlySet<string>): Promise<void> {
  for (const name of await readdir(pool)) {
    const sha256 = /^([0-9a-f]{64})\.rpm$/.exec(name)?.[1];
    if (sha256 === undefined) {
      if (name.endsWith('.tmp')) await rm(join(pool, name), { force: true });
    } else if (!keep.has(sha256) && (await lstat(join(pool, name))).nlink === 1) {
      await rm(entryFile(pool, sha256), { force: true });
      await rm(join(pool, name), { force: true });
    }
  }
}

function entryFile(pool: string, sha256: string): string {
  return join(pool, `${sha256}.json`);
}

async function copyIn(pool: string, file: string): Promise<string> {
  const fd = openFile(file);
  const temporary = join(pool, `${randomUUID()}.tmp`);
  try {
    const from = `/proc/self/fd/${fd}`;
    const before = await sha256Of(from);
    if (existsSync(pooledFile(pool, before))) return before;
    await copyFile(from, temporary, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    await using copy = await open(temporary, constants.O_RDONLY | constants.O_NOFOLLOW);
    await copy.chmod(0o644);
    await copy.sync();
    const sha256 = await sha256Of(temporary);
    await rename(temporary, pooledFile(pool, sha256));
    return sha256;
  } finally {
    closeSync(fd);
    await rm(temporary, { force: true });
  }
}

function readPooled(pool: string, sha256: string): PooledPackage | undefined {
  const read = () => readUserFile(entryFile(pool, sha256), MAX_ENTRY).toString('utf8');
  const pooled = pooledSchema.safeParse(attempt(() => JSON.parse(read()))).data;
  return pooled?.sha256 === sha256 ? pooled : undefined;
}

function describe(rpm: RpmPackage, sha256: string, file: string): PooledPackage {
  const { name, epoch, version, release, arch, sourceRpm, buildTime } = rpm;
  const location = `${name}-${version}-${release}.${arch}.rpm`;
  if (locationFault(location) !== undefined || location.includes('/') || location.startsWith('.')) {
    throw new KilnError(
      'E_RPM_FORMAT',
      `${file}: its name and version make no valid file name: ${location}`,
    );
  }
  const provides = rpm.dependencies.provides.map(({ flags: _, ...entry }) => entry);
  const elements = packageElements({ package: rpm, sha256, location });
  const identity = { name, epoch, version, release, arch, sourceRpm, buildTime };
  const size = rpm.packageSize;
  return { format: FORMAT, sha256, size, ...identity, location, provides, elements };
}
