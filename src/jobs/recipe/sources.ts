/** Brings the sources of a recipe onto this machine and checks their digests, before anything runs. */
import { randomUUID } from 'node:crypto';
import { createReadStream, createWriteStream, fstatSync, readFileSync } from 'node:fs';
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { sizeInWords } from '../../host/calls/system-error.ts';
import { openUserFile, utf8Text } from '../../host/files/user-file.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { Cache, publish, sha256Of } from '../../packages/repository/cache.ts';
import { downloadObject } from '../../packages/repository/transport/download.ts';
import { Mirrors } from '../../packages/repository/transport/mirrors.ts';
import { defaultTransfer, type OnProgress } from '../../packages/repository/transport/transfer.ts';
import type { RecipeSource } from '../../recipe/build-recipe.ts';
import { RECIPE_SIZE_LIMIT } from '../../recipe/document.ts';
import type { RecipeFolder } from '../../recipe/folder.ts';

/** Other files of the folder are sources, and the recipe says so. */
const MODULE = /\.(?:m?[tj]s|json)$/;

/** The text of a module below `folder`; links may not lead out of it. @throws KilnError E_RECIPE_READ */
export function readModule(folder: RecipeFolder, path: string): string {
  if (!MODULE.test(path))
    throw unreadableError(path, 'modules end in .ts, .mts, .js, .mjs or .json');
  using file = closing(openBeneath(folder, path));
  const stats = fstatSync(file.fd);
  if (!stats.isFile()) throw unreadableError(path, 'it is not a file');
  if (stats.size > RECIPE_SIZE_LIMIT) throw unreadableError(path, 'it is too large for a module');
  return utf8Text(readFileSync(file.fd), path);
}

function openBeneath(folder: RecipeFolder, path: string): number {
  try {
    return folder.open(path);
  } catch (cause) {
    throw unreadableError(path, 'a recipe may read what lies in its folder and below', cause);
  }
}

function unreadableError(path: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_RECIPE_READ', `the recipe cannot have ${path}: ${why}`, {
    cause,
    hint: 'put the file into the folder of the recipe; see docs/recipes.md',
  });
}

/** Bytes a source may have when the recipe does not say. */
const MAX_SOURCE = 4 * 2 ** 30;
const MAX_OFFERED = 2000;

interface Found {
  readonly path: string;
  readonly sha256: string;
  readonly from: 'cache' | 'download' | 'folder' | 'recipe';
}

export interface ReadySource extends Found {
  readonly name: string;
  readonly bytes: number;
}

interface SourceOptions {
  readonly paths: StatePaths;
  /** Bytes of one source, whatever the recipe says. */
  readonly largest: number;
  /** Bytes of all that is added to the cache. */
  readonly room: number;
  readonly folder: RecipeFolder;
  readonly offered: string | undefined;
  readonly offline: boolean;
  /** Whether URLs may lead to addresses that are not public: this host's, and its network's. */
  readonly allowHost: boolean;
  readonly signal: AbortSignal;
  readonly onProgress: OnProgress | undefined;
}

/**
 * Gets every source and checks it.
 * @throws KilnError E_SOURCE (two of one name, too large), E_SOURCE_DIGEST, E_SOURCE_MISSING,
 * E_RECIPE_READ, E_DOWNLOAD; the signal's reason.
 */
export async function readySources(
  sources: readonly RecipeSource[],
  options: SourceOptions,
): Promise<ReadySource[]> {
  const fetching = { ...options, cache: new Cache(options.paths) };
  const ready: ReadySource[] = [];
  const names = new Set<string>();
  let room = options.room;
  for (const wanted of sources) {
    options.signal.throwIfAborted();
    const largest = Math.min(wanted['max-size'] ?? MAX_SOURCE, options.largest);
    const name = wanted.name ?? nameOf(wanted);
    const source = { ...wanted, name, limit: Math.min(largest, room) };
    if (names.has(name)) {
      throw new KilnError('E_SOURCE', `two sources are called ${name}`, {
        hint: 'give one of them another `name`',
      });
    }
    names.add(name);
    const found =
      source.file === undefined
        ? await fetched(source, fetching)
        : await copied(source.file, source, fetching);
    const bytes = (await stat(found.path)).size;
    if (bytes > largest) throw tooLargeError(source);
    if (found.from !== 'cache') room -= bytes;
    ready.push({ name, bytes, ...found });
  }
  return ready;
}

function nameOf(source: RecipeSource): string {
  if (source.file !== undefined) return basename(source.file);
  const first = [source.url ?? ''].flat()[0] ?? '';
  const path = URL.parse(first)?.pathname ?? '';
  const name = decodeURIComponent(basename(path));
  if (name !== '' && name !== '.' && name !== '..' && !/[/\0\n]/.test(name)) return name;
  throw new KilnError('E_SOURCE', `the URL ${first} does not say what the file is called`, {
    hint: 'give the source a `name`',
  });
}

/** A source with the bytes that it may have. */
type Bounded = RecipeSource & { readonly name: string; readonly limit: number };

type Fetching = SourceOptions & { readonly cache: Cache };

async function fetched(source: Bounded, fetching: Fetching): Promise<Found> {
  const { cache, offline } = fetching;
  const { name, sha256 = '' } = source;
  const digest = `sha256:${sha256}`;
  const cached = await cache.find(digest);
  if (cached !== undefined) return { path: cached, sha256, from: 'cache' };
  const offered = await findOffered(source, sha256, fetching);
  if (offered !== undefined) return { path: offered, sha256, from: 'folder' };
  const urls = [source.url ?? []].flat();
  if (urls.length === 0 || offline) {
    const why =
      urls.length === 0 ? 'the recipe has no URL for it' : 'downloads are off (--offline)';
    throw new KilnError('E_SOURCE_MISSING', `source ${name} is not here, and ${why}`, {
      hint: `put it into a folder and name that with --sources; its sha256 is ${sha256}`,
    });
  }
  const path = await downloadObject(
    {
      cache,
      transfer: defaultTransfer,
      reach: fetching.allowHost ? 'named' : 'public',
      signal: fetching.signal,
      onProgress: fetching.onProgress,
    },
    {
      repository: 'sources',
      mirrors: new Mirrors(urls, undefined),
      location: '',
      item: name,
      maxSize: source.limit,
      digest,
      size: undefined,
    },
  );
  return { path, sha256, from: 'download' };
}

async function findOffered(
  source: Bounded,
  sha256: string,
  { cache, offered, signal }: Fetching,
): Promise<string | undefined> {
  if (offered === undefined) return undefined;
  let entries: string[];
  try {
    entries = await readdir(offered);
  } catch (cause) {
    throw new KilnError('E_SOURCE_MISSING', `cannot read the folder ${offered}`, {
      cause,
      hint: '--sources names a folder with source archives',
    });
  }
  const { name, limit } = source;
  entries.sort((a, b) => Number(b === name) - Number(a === name));
  for (const entry of entries.slice(0, MAX_OFFERED)) {
    signal.throwIfAborted();
    const path = join(offered, entry);
    const info = await stat(path).catch(() => undefined);
    if (!info?.isFile() || info.size > limit) continue;
    const found = await sha256Of(path);
    if (found === sha256) {
      // The copy in the cache is checked again: somebody may change the file meanwhile.
      const stream = createReadStream('', { fd: openUserFile(path) });
      return (await keep(stream, { ...source, sha256 }, cache)).path;
    }
    if (entry === name) throw digestError(name, sha256, found, path);
  }
  return undefined;
}

async function copied(file: string, source: Bounded, { cache, folder }: Fetching): Promise<Found> {
  using opened = closing(openBeneath(folder, file));
  if (!fstatSync(opened.fd).isFile())
    throw new KilnError('E_SOURCE', `source ${file} is not a file`, {
      hint: 'name a regular file',
    });
  // A descriptor of its own, which ends with the stream.
  const stream = createReadStream(`/proc/self/fd/${opened.fd}`);
  return { ...(await keep(stream, { ...source, name: file }, cache)), from: 'recipe' };
}

async function keep(stream: Readable, source: Bounded, cache: Cache) {
  const { name, limit } = source;
  const temporary = join(cache.root, 'partial', `source-${process.pid}-${randomUUID()}`);
  await mkdir(dirname(temporary), { recursive: true });
  let received = 0;
  try {
    await pipeline(
      stream,
      async function* (chunks: AsyncIterable<Buffer>) {
        for await (const chunk of chunks) {
          received += chunk.length;
          if (received > limit) throw tooLargeError(source);
          yield chunk;
        }
      },
      createWriteStream(temporary, { flags: 'wx', mode: 0o600 }),
    );
    const sha256 = await sha256Of(temporary);
    if (source.sha256 !== undefined && source.sha256 !== sha256) {
      throw digestError(name, source.sha256, sha256, name);
    }
    const path = cache.object(`sha256:${sha256}`);
    await using handle = await open(temporary);
    await handle.sync();
    await publish(temporary, path);
    return { path, sha256 };
  } finally {
    await rm(temporary, { force: true });
  }
}

function tooLargeError({ name, limit }: Bounded): KilnError {
  return new KilnError('E_SOURCE', `source ${name} is larger than ${sizeInWords(limit)}`, {
    hint: 'raise its `max-size` in the recipe; for users `users.limits.disk` and what is left of `users.limits.storage` are the most',
  });
}

function digestError(name: string, wanted: string, found: string, path: string): KilnError {
  return new KilnError(
    'E_SOURCE_DIGEST',
    `source ${name} is not the one the recipe names: ${path} has the sha256 ${found}, not ${wanted}`,
    { hint: 'get the right file, or, if the new one is trusted, change the recipe' },
  );
}
