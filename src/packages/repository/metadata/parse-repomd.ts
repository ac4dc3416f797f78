import type { KilnError } from '../../../errors.ts';
import { MAX_METADATA, MAX_OPEN_METADATA } from '../transport/limits.ts';
import { isAbsoluteUrl, resolveLocation } from '../transport/location.ts';
import { brokenMetadata } from './broken-metadata.ts';
import type { Compression, MetadataFile } from './metadata-file.ts';
import type { Repomd } from './repomd.ts';
import { child, children, parseXml, type XmlElement } from './xml.ts';

/** Hash lengths (hex digits) of the allowed algorithms; sha1 and md5 are too weak. */
const ALGORITHMS: Readonly<Record<string, number>> = { sha256: 64, sha384: 96, sha512: 128 };

const SUFFIXES: Readonly<Record<string, Compression>> = {
  xml: 'none',
  yaml: 'none',
  bz2: 'bzip2',
  gz: 'gzip',
  xz: 'xz',
  zst: 'zstd',
};

/**
 * Reads a repomd.xml (createrepo_c's output). Runs in a confined child.
 * @throws KilnError E_REPOSITORY_METADATA
 */
export function parseRepomd(text: string): Repomd {
  const root = parseXml(text, 'repomd.xml');
  if (root.name !== 'repomd') throw broken(`its root is <${root.name}>`);
  const data = (type: string) =>
    children(root, 'data').find((element) => element.attributes.type === type);
  const primary = data('primary');
  if (primary === undefined) throw broken('it names no primary metadata');
  const filelists = data('filelists');
  // `group_gz` is the same file compressed.
  const group = data('group_gz') ?? data('group_xz') ?? data('group_zst') ?? data('group');
  const modules = data('modules');
  return {
    revision: child(root, 'revision')?.text ?? '',
    primary: metadataFile(primary),
    ...(filelists === undefined ? {} : { filelists: metadataFile(filelists) }),
    ...(group === undefined ? {} : { group: metadataFile(group) }),
    ...(modules === undefined ? {} : { modules: metadataFile(modules) }),
  };
}

function metadataFile(data: XmlElement): MetadataFile {
  const type = data.attributes.type ?? '';
  const { href = '', 'xml:base': base = '' } = child(data, 'location')?.attributes ?? {};
  // Opening the location decides whether it may be a file of this host.
  const location = resolveLocation({ location: href, base }, true, `repomd.xml is broken: ${type}`);
  const path = isAbsoluteUrl(location) ? new URL(location).pathname : location;
  const suffix = path.slice(path.lastIndexOf('.') + 1);
  const compression = SUFFIXES[suffix];
  if (compression === undefined) throw broken(`${location} has a compression kiln cannot read`);
  const openDigest = child(data, 'open-checksum');
  const openSize = sizeOf(data, 'open-size', MAX_OPEN_METADATA);
  const size = sizeOf(data, 'size', MAX_METADATA);
  return {
    type,
    location,
    compression,
    digest: digest(child(data, 'checksum'), type),
    size,
    ...(openDigest === undefined ? {} : { openDigest: digest(openDigest, type) }),
    openSize,
  };
}

function digest(element: XmlElement | undefined, type: string): string {
  const algorithm = element?.attributes.type ?? '';
  const hex = (element?.text ?? '').toLowerCase();
  const length = Object.hasOwn(ALGORITHMS, algorithm) ? ALGORITHMS[algorithm] : undefined;
  if (length === undefined) {
    throw broken(`${type} has the checksum type '${algorithm}', kiln trusts sha256 to sha512 only`);
  }
  if (hex.length !== length || !/^[0-9a-f]+$/.test(hex)) throw broken(`${type} has no checksum`);
  return `${algorithm}:${hex}`;
}

function sizeOf(data: XmlElement, name: string, limit: number): number | undefined {
  const element = child(data, name);
  if (element === undefined) return undefined;
  const size = /^\d{1,15}$/.test(element.text) ? Number(element.text) : Number.NaN;
  if (size <= limit) return size;
  throw broken(`${data.attributes.type} has the ${name} '${element.text}', the limit is ${limit}`);
}

function broken(why: string): KilnError {
  return brokenMetadata('repomd.xml', why);
}
