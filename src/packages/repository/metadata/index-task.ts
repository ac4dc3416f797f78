/** Confined task `repository-index`: reads the small XML files that say what a repository is. */
import { SaxesParser } from 'saxes';
import { defined } from '../../../defined.ts';
import { KilnError } from '../../../errors.ts';
import type { SingleTask } from '../../../host/confine/task.ts';
import { isAbsoluteUrl, resolveLocation } from '../transport/location.ts';
import type { IndexInput, MetadataFile, Metalink, Repomd } from './read-index.ts';
import { type Compression, MAX_METADATA, MAX_OPEN_METADATA, metadataError } from './repomd.ts';

export const task: SingleTask = {
  run(input, { emit }) {
    const { kind, text } = input as IndexInput;
    emit(kind === 'metalink' ? parseMetalink(text) : parseRepomd(text));
  },
};

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

export function parseRepomd(text: string): Repomd {
  const root = parseXml(text, 'repomd.xml');
  if (root.name !== 'repomd') throw repomdError(`its root is <${root.name}>`);
  const data = (type: string) => {
    const found = children(root, 'data').find(({ attributes }) => attributes.type === type);
    return found && metadataFile(found);
  };
  const primary = data('primary');
  if (primary === undefined) throw repomdError('it names no primary metadata');
  return {
    primary,
    ...defined({
      filelists: data('filelists'),
      // `group_gz` is the same file compressed.
      group: data('group_gz') ?? data('group_xz') ?? data('group_zst') ?? data('group'),
      modules: data('modules'),
    }),
  };
}

function metadataFile(data: XmlElement): MetadataFile {
  const type = data.attributes.type ?? '';
  const { href = '', 'xml:base': base = '' } = child(data, 'location')?.attributes ?? {};
  // Opening the location decides whether it may be a file of this host.
  const location = resolveLocation({ location: href, base }, true, `repomd.xml is broken: ${type}`);
  const path = isAbsoluteUrl(location) ? new URL(location).pathname : location;
  const compression = SUFFIXES[path.slice(path.lastIndexOf('.') + 1)];
  if (compression === undefined)
    throw repomdError(`${location} has a compression kiln cannot read`);
  const openDigest = child(data, 'open-checksum');
  return {
    type,
    location,
    compression,
    digest: digest(child(data, 'checksum'), type),
    size: sizeOf(data, 'size', MAX_METADATA),
    ...defined({ openDigest: openDigest && digest(openDigest, type) }),
    openSize: sizeOf(data, 'open-size', MAX_OPEN_METADATA),
  };
}

function digest(element: XmlElement | undefined, type: string): string {
  const algorithm = element?.attributes.type ?? '';
  const hex = (element?.text ?? '').toLowerCase();
  const length = Object.hasOwn(ALGORITHMS, algorithm) ? ALGORITHMS[algorithm] : undefined;
  if (length === undefined) {
    const what = `${type} has the checksum type '${algorithm}'`;
    throw repomdError(`${what}, kiln trusts sha256 to sha512 only`);
  }
  if (hex.length !== length || !/^[0-9a-f]+$/.test(hex))
    throw repomdError(`${type} has no checksum`);
  return `${algorithm}:${hex}`;
}

function sizeOf(data: XmlElement, name: string, limit: number): number | undefined {
  const element = child(data, name);
  if (element === undefined) return undefined;
  const size = /^\d{1,15}$/.test(element.text) ? Number(element.text) : Number.NaN;
  if (size <= limit) return size;
  const what = `${data.attributes.type} has the ${name} '${element.text}'`;
  throw repomdError(`${what}, the limit is ${limit}`);
}

function repomdError(why: string): KilnError {
  return metadataError('repomd.xml', why);
}

const REPOMD = 'repodata/repomd.xml';

function parseMetalink(text: string): Metalink {
  const root = parseXml(text, 'the metalink');
  const files = child(root, 'files');
  const file = children(files, 'file').find((element) => element.attributes.name === 'repomd.xml');
  if (root.name !== 'metalink' || file === undefined)
    throw metalinkError('it is not about repomd.xml');
  const urls = children(child(file, 'resources'), 'url')
    .filter((url) => /^https?:\/\//.test(url.text) && url.text.endsWith(`/${REPOMD}`))
    .map((url) => ({
      base: url.text.slice(0, -REPOMD.length),
      preference: Number(url.attributes.preference ?? 0) || 0,
    }))
    .sort((a, b) => b.preference - a.preference);
  const older = children(child(file, 'alternates'), 'alternate');
  const repomds = [file, ...older].flatMap(repomdDigest);
  if (urls.length === 0) throw metalinkError('it names no http or https mirror');
  if (repomds.length === 0) throw metalinkError('it has no sha256 or sha512 of repomd.xml');
  return { mirrors: [...new Set(urls.map((url) => url.base))], repomds };
}

function repomdDigest(element: XmlElement): string[] {
  const hashes = children(child(element, 'verification'), 'hash');
  const of = (algorithm: string, length: number) => {
    const hex = hashes.find((hash) => hash.attributes.type === algorithm)?.text.toLowerCase();
    return hex?.length === length && /^[0-9a-f]+$/.test(hex) ? `${algorithm}:${hex}` : undefined;
  };
  const found = of('sha512', 128) ?? of('sha256', 64);
  return found === undefined ? [] : [found];
}

function metalinkError(why: string): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `the metalink is broken: ${why}`, {
    hint: 'try again later, or give a baseurl instead',
  });
}

interface XmlElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlElement[];
  readonly text: string;
}

const MAX_ELEMENTS = 100_000;
const MAX_DEPTH = 32;

function parseXml(text: string, what: string): XmlElement {
  const root = { name: '', attributes: {}, children: [] as XmlElement[], text: '' };
  const stack: { name: string; children: XmlElement[]; text: string }[] = [root];
  const fail = (why: string): never => {
    throw metadataError(what, why);
  };
  let count = 0;
  const parser = new SaxesParser();
  parser.on('error', (error) => fail(error.message));
  parser.on('doctype', () => fail('it declares a document type'));
  parser.on('opentag', (tag) => {
    if (++count > MAX_ELEMENTS || stack.length > MAX_DEPTH) fail('it has too many elements');
    const element = {
      name: tag.name.slice(tag.name.indexOf(':') + 1),
      attributes: tag.attributes,
      children: [],
      text: '',
    };
    stack.at(-1)?.children.push(element);
    stack.push(element);
  });
  parser.on('text', (part) => {
    const current = stack.at(-1);
    if (current !== undefined) current.text += part;
  });
  parser.on('closetag', () => {
    const element = stack.pop();
    if (element !== undefined) element.text = element.text.trim();
  });
  parser.write(text).close();
  return root.children[0] ?? fail('it is empty');
}

function child(element: XmlElement, name: string): XmlElement | undefined {
  return element.children.find((candidate) => candidate.name === name);
}

function children(element: XmlElement | undefined, name: string): readonly XmlElement[] {
  return element?.children.filter((candidate) => candidate.name === name) ?? [];
}
