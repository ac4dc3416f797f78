import { hash } from 'node:crypto';
import { mkdir, rm, stat, truncate } from 'node:fs/promises';
import { dirname } from 'node:path';
import { defined } from '../../../defined.ts';
import { acquireLock } from '../../../host/files/flock.ts';
import { removeTree } from '../../../host/files/remove-tree.ts';
import { digestFile, hasContent, publish } from '../cache.ts';
import { BrokenFileError, type DownloadItem, Mirrors, tryMirrors } from './mirrors.ts';
import type { Reach } from './reach.ts';
import { type ResumeState, receiveBuffer, receiveFile } from './receive.ts';
import type { DownloadContext } from './transfer.ts';

/**
 * Downloads a file with a known digest into the cache, and returns its path. An interrupted download, even of a
 * killed process, continues where it stopped. Processes that want the same file wait.
 * @throws KilnError E_DOWNLOAD, E_CACHE_WRITE; the signal's reason
 */
export async function downloadObject(
  context: DownloadContext,
  item: DownloadItem & { readonly digest: string; readonly size: number | undefined },
): Promise<string> {
  const { cache } = context;
  const known = await cache.find(item.digest, item.size);
  if (known !== undefined) return known;
  const partial = cache.partial(item.digest);
  await makePlace(partial);
  await using _held = await acquireLock(partial, { signal: context.signal });
  const target = cache.object(item.digest);
  const meanwhile = await cache.find(item.digest, item.size);
  if (meanwhile !== undefined) {
    await rm(partial, { force: true });
    return meanwhile;
  }
  const resume: ResumeState = {};
  const options = { ...receiveOptions(context, item, item.size), headers: {}, allowPlain: true };
  const complete = async (url: string, have: number, reach: Reach) => {
    if (have !== item.size) await receiveFile(url, partial, have, resume, { ...options, reach });
    if (await hasContent(partial, item.digest, item.size)) return true;
    await truncate(partial);
    resume.validator = undefined;
    return false;
  };
  await tryMirrors(context, item, async (url, reach) => {
    const have = await usable(partial, item.size);
    if (await complete(url, have, reach)) return;
    // The bytes from before may be wrong, which is not this mirror's fault.
    if (have > 0 && (await complete(url, 0, reach))) return;
    const [algorithm] = item.digest.split(':');
    throw new BrokenFileError(`its ${algorithm} is not the one it should have`);
  });
  await publish(partial, target);
  return target;
}

async function makePlace(partial: string): Promise<void> {
  await mkdir(dirname(partial), { recursive: true });
  const found = await stat(partial).catch(() => undefined);
  if (found?.isDirectory()) await removeTree(partial);
}

async function usable(path: string, size: number | undefined): Promise<number> {
  const have = (await stat(path)).size;
  if (size === undefined || have <= size) return have;
  await truncate(path);
  return 0;
}

/** A file that no metadata lists: it has its URL alone. */
export async function downloadUnknown(
  context: DownloadContext,
  url: string,
  what: Omit<DownloadItem, 'mirrors' | 'location'>,
): Promise<string> {
  const { cache } = context;
  const item = { ...what, mirrors: new Mirrors([url], undefined), location: '' };
  const partial = cache.partial(`url:${hash('sha256', url, 'hex')}`);
  await makePlace(partial);
  await using _held = await acquireLock(partial, { signal: context.signal });
  await tryMirrors(context, item, async (from, reach) => {
    const options = receiveOptions(context, item, undefined);
    await receiveFile(from, partial, 0, {}, { ...options, headers: {}, allowPlain: false, reach });
  });
  const target = cache.object(await digestFile(partial, 'sha256'));
  await publish(partial, target);
  return target;
}

interface FileVersion {
  readonly etag?: string | undefined;
  readonly lastModified?: string | undefined;
}

interface FetchedFile extends FileVersion {
  readonly content: Buffer;
}

/**
 * Gets a small file whose digest is not known into memory.
 * @param known what is here already: undefined is returned if the server has the same.
 * @param accept throws a BrokenFileError for content that another mirror may have better.
 * @throws KilnError E_DOWNLOAD; the signal's reason
 */
export function downloadFile(
  context: DownloadContext,
  item: DownloadItem,
  known: FileVersion | undefined,
  accept: (content: Buffer) => void,
): Promise<FetchedFile | undefined> {
  const headers = {
    'cache-control': 'no-cache',
    ...defined({ 'if-none-match': known?.etag, 'if-modified-since': known?.lastModified }),
  };
  return tryMirrors(context, item, async (url, reach) => {
    const options = { ...receiveOptions(context, item, undefined), headers, allowPlain: false };
    const answer = await receiveBuffer(url, { ...options, reach });
    if (answer === undefined) return undefined;
    accept(answer.content);
    const { etag, 'last-modified': lastModified } = answer.headers;
    return { content: answer.content, etag, lastModified };
  });
}

function receiveOptions(context: DownloadContext, item: DownloadItem, size: number | undefined) {
  const { repository, item: name } = item;
  return {
    transfer: context.transfer,
    signal: context.signal,
    size,
    maxSize: item.maxSize,
    access: item.mirrors.access,
    onBytes: (received: number) =>
      context.onProgress?.({ kind: 'download', repository, item: name, received, total: size }),
  };
}
