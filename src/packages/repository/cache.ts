import { createHash, hash, randomUUID } from 'node:crypto';
import { readSync } from 'node:fs';
import { type FileHandle, mkdir, open, rm, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { openUserFile } from '../../host/files/user-file.ts';
import { findCached, recordText, withFields } from '../../host/state/checked-file.ts';
import { DamagedFileError, renameOver } from '../../host/state/damage.ts';
import type { RepositorySource } from './configuration.ts';
import type { Repomd } from './metadata/read-index.ts';

/** A folder beside the downloads, whose content sandboxes write. */
export const BUILD_CACHES = 'builds';

/**
 * The names in the download cache, which several processes share without a lock: a file is renamed to its name when it
 * is whole, and is the same whoever made it.
 *
 *     objects/sha256/ab/ab…   downloads, named by their digest
 *     partial/sha256-ab…      a download under way; whoever writes it holds its flock
 *     repositories/ID-…/      what is known of a repository, and its lock
 *     solutions/…             the solver's answers, named by the question and the content
 *     solv/…                  metadata in libsolv's form, named by repomd.xml's digest
 */
export class Cache {
  readonly root: string;

  constructor(paths: { readonly cache: string }) {
    this.root = paths.cache;
  }

  object(digest: string): string {
    const [algorithm = '', hex = ''] = digest.split(':');
    return join(this.root, 'objects', algorithm, hex.slice(0, 2), hex);
  }

  partial(digest: string): string {
    return join(this.root, 'partial', digest.replace(':', '-'));
  }

  repository(key: string): string {
    return join(this.root, 'repositories', key);
  }

  solv(name: string): string {
    return join(this.root, 'solv', name);
  }

  solution(name: string): string {
    return join(this.root, 'solutions', `${name}.json`);
  }

  /**
   * Also sets its time of last use. A damaged file stays until a new download replaces it: deleting it here could
   * delete what another process has just brought.
   */
  async find(digest: string, size?: number): Promise<string | undefined> {
    const path = this.object(digest);
    const now = new Date();
    // First: a large file takes long to read, and gc could remove it meanwhile.
    await utimes(path, now, now).catch(() => {});
    return (await hasContent(path, digest, size)) ? path : undefined;
  }
}

/** Every use is checked: reading at 1.7 GB/s costs less than an fsync for each file, and detects what the disk lost. */
export async function hasContent(path: string, digest: string, size?: number): Promise<boolean> {
  try {
    const found = await stat(path);
    if (!found.isFile() || (size !== undefined && found.size !== size)) return false;
    return (await digestFile(path, digest.split(':')[0] ?? '')) === digest;
  } catch (error) {
    if (hasErrno(error, 'ENOENT', 'ENOTDIR')) return false;
    throw error;
  }
}

const PIECE = 1024 * 1024;

/** One buffer for all pieces: new memory for every piece would keep V8 busy with freeing it. */
let memory: Buffer | undefined;

export async function digestFile(
  path: string,
  algorithm: string,
  length = Number.POSITIVE_INFINITY,
): Promise<string> {
  const hash = createHash(algorithm);
  memory ??= Buffer.allocUnsafeSlow(PIECE);
  using file = closing(openUserFile(path));
  for (let left = length; ; ) {
    // Not through Node's thread pool, where a turn costs more than reading such a piece.
    const count = readSync(file.fd, memory, 0, Math.min(PIECE, left), null);
    left -= count;
    if (count === 0) return `${algorithm}:${hash.digest('hex')}`;
    hash.update(memory.subarray(0, count));
    await nextTurn();
  }
}

/** The digest of a file as `sha256sum` writes it. */
export async function sha256Of(path: string): Promise<string> {
  return (await digestFile(path, 'sha256')).slice('sha256:'.length);
}

const SEAL = '\nkiln-sha256 ';
const SEAL_LENGTH = SEAL.length + 64;

/** Ends a large cache file, which is open for reading and writing, with the digest of its content. */
export async function sealFile(file: FileHandle): Promise<void> {
  const { size } = await file.stat();
  const seal = Buffer.from(SEAL + (await sha256Of(`/proc/self/fd/${file.fd}`)));
  await file.write(seal, 0, seal.length, size);
}

export async function isSealed(path: string): Promise<boolean> {
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    const seal = Buffer.alloc(SEAL_LENGTH);
    const end = size - SEAL_LENGTH;
    if (end >= 0) await file.read(seal, 0, SEAL_LENGTH, end);
    if (!seal.toString('latin1').startsWith(SEAL)) {
      throw new DamagedFileError(path, size === 0 ? 'it is empty' : 'its end is missing');
    }
    const digest = await digestFile(`/proc/self/fd/${file.fd}`, 'sha256', end);
    if (digest === `sha256:${seal.toString('latin1', SEAL.length)}`) return true;
    throw new DamagedFileError(path, 'its digest is another one');
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return false;
    if (hasErrno(error, 'EISDIR')) throw new DamagedFileError(path, 'it is a folder');
    throw error;
  }
}

/** Replaces a file as a whole: other processes see the old content or the new one, even after a power cut. */
export async function writeWhole(path: string, content: string | Buffer): Promise<void> {
  await using temporary = await createTemporary(path);
  await temporary.handle.writeFile(content);
  await temporary.commit();
}

export async function createTemporary(path: string) {
  await mkdir(dirname(path), { recursive: true });
  const name = `${path}.${process.pid}.${randomUUID()}.tmp`;
  const handle = await open(name, 'wx+', 0o600);
  let committed = false;
  return {
    handle,
    async commit(): Promise<void> {
      await handle.sync();
      renameOver(name, path);
      committed = true;
    },
    async [Symbol.asyncDispose](): Promise<void> {
      await handle.close();
      if (!committed) await rm(name, { force: true });
    },
  };
}

export async function publish(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  renameOver(from, to);
}

const STATE_FORMAT = 2;

export interface RepositoryState extends KnownState {
  readonly format: typeof STATE_FORMAT;
}

interface KnownState {
  /** When a server was last asked, milliseconds since 1970. */
  readonly checkedAt: number;
  readonly mirrors: readonly string[];
  /** The keys with which the signature of `index` was checked; undefined if no check was asked for. */
  readonly keys?: string | undefined;
  readonly index?: RepositoryIndex | undefined;
}

export interface RepositoryIndex {
  readonly digest: string;
  readonly otherDigests: readonly string[];
  readonly etag?: string | undefined;
  readonly lastModified?: string | undefined;
  readonly repomd: Repomd;
}

interface TrustedSource {
  readonly id: string;
  readonly source: RepositorySource;
  readonly repoGpgcheck?: boolean;
  readonly gpgkey?: readonly string[];
}

/** Another source, or other trust settings, have another folder. */
export function stateDirectory(cache: Cache, repository: TrustedSource): string {
  const trust = repository.repoGpgcheck ? repository.gpgkey : false;
  const source = JSON.stringify([Object.values(repository.source), trust]);
  return cache.repository(`${repository.id}-${hash('sha256', source, 'hex').slice(0, 16)}`);
}

export async function readState(directory: string): Promise<RepositoryState | undefined> {
  const value = findCached(join(directory, 'state.json'), takeState);
  return value?.format === STATE_FORMAT ? value : undefined;
}

const takeState = withFields<RepositoryState>({
  format: 'number',
  checkedAt: 'number',
  mirrors: 'array',
});

export async function writeState(directory: string, state: KnownState): Promise<void> {
  const text = recordText({ format: STATE_FORMAT, ...state });
  await writeWhole(join(directory, 'state.json'), text);
}
