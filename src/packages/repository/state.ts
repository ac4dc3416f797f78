import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { dropCached, findRecord, recordText, withFields } from '../../host/state/checked-file.ts';
import { type Cache, writeWhole } from './cache.ts';
import type { Repository, RepositorySource } from './configuration.ts';
import type { Repomd } from './metadata/repomd.ts';

/** Raised when the remembered data changes. */
export const STATE_FORMAT = 2;

/** What is remembered of a repository between two runs. */
export interface RepositoryState {
  readonly format: typeof STATE_FORMAT;
  /** When a server was last asked, milliseconds since 1970. */
  readonly checkedAt: number;
  /** Folders' URLs, best first; empty for a local directory. */
  readonly mirrors: readonly string[];
  /** The digests that the metalink allows; empty without a metalink. */
  readonly allowed: readonly string[];
  /**
   * Identifies the keys with which the signature of `index` was checked; undefined if no check was asked for.
   */
  readonly keys?: string | undefined;
  /** Undefined while only the mirrors are known. */
  readonly index?: RepositoryIndex | undefined;
}

/** A repository's repomd.xml. */
export interface RepositoryIndex {
  /** sha256 of it. */
  readonly digest: string;
  /** The digests a metalink may name it by. */
  readonly otherDigests: readonly string[];
  readonly etag?: string | undefined;
  readonly lastModified?: string | undefined;
  readonly repomd: Repomd;
}

/**
 * The folder with what is known of a repository; another source, or other trust settings, have another folder.
 */
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

/** What is known; undefined for a damaged file, or one of another version of kiln. */
export async function readState(directory: string): Promise<RepositoryState | undefined> {
  const { value, damage } = findRecord(join(directory, 'state.json'), takeState);
  if (damage !== undefined) dropCached(damage);
  return value?.format === STATE_FORMAT ? value : undefined;
}

const takeState = withFields<RepositoryState>({
  format: 'number',
  checkedAt: 'number',
  mirrors: 'array',
  allowed: 'array',
});

export async function writeState(directory: string, state: RepositoryState): Promise<void> {
  await writeWhole(join(directory, 'state.json'), recordText(state));
}
