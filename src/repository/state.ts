import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { hasErrno } from '../kernel/libc.ts';
import { type Cache, writeWhole } from './cache.ts';
import type { Repository, RepositorySource } from './configuration.ts';
import { repomdSchema } from './repomd.ts';

/** What is remembered of a repository between two runs. */
const stateSchema = z.strictObject({
  format: z.literal(1),
  /** When a server was last asked, milliseconds since 1970. */
  checkedAt: z.number(),
  /** Folders' URLs, best first; empty for a local directory. */
  mirrors: z.array(z.string()),
  /** What the metalink said may be served; empty without one. */
  allowed: z.array(z.string()),
  /** Undefined while only the mirrors are known. */
  index: z
    .strictObject({
      /** sha256 of repomd.xml. */
      digest: z.string(),
      /** The digests a metalink may name it by. */
      otherDigests: z.array(z.string()),
      etag: z.string().optional(),
      lastModified: z.string().optional(),
      repomd: repomdSchema,
    })
    .optional(),
});
export type RepositoryState = z.output<typeof stateSchema>;
export type RepositoryIndex = NonNullable<RepositoryState['index']>;

/** The folder of what is known of a repository; another source or other trust is another one. */
export function stateDirectory(
  cache: Cache,
  repository: Pick<Repository, 'id' | 'source'> & Partial<Repository>,
): string {
  const trust = repository.repoGpgcheck ? repository.gpgkey : false;
  const source = JSON.stringify([canonical(repository.source), trust]);
  const hash = createHash('sha256').update(source).digest('hex').slice(0, 16);
  return cache.repository(`${repository.id}-${hash}`);
}

function canonical(source: RepositorySource): readonly unknown[] {
  return source.kind === 'directory'
    ? [source.kind, source.path]
    : [source.kind, source.kind === 'baseurl' ? source.urls : source.url];
}

/** What is known, or undefined; a file that cannot be understood is nothing. */
export async function readState(directory: string): Promise<RepositoryState | undefined> {
  try {
    const text = await readFile(join(directory, 'state.json'), 'utf8');
    return stateSchema.safeParse(JSON.parse(text)).data;
  } catch (error) {
    if (error instanceof SyntaxError || hasErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

export async function writeState(directory: string, state: RepositoryState): Promise<void> {
  await writeWhole(join(directory, 'state.json'), JSON.stringify(stateSchema.parse(state)));
}
