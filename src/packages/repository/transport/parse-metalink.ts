import { KilnError } from '../../../errors.ts';
import { child, children, parseXml, type XmlElement } from '../metadata/xml.ts';
import type { Metalink } from './metalink.ts';

const REPOMD = 'repodata/repomd.xml';

/**
 * Reads a metalink 3 document as MirrorManager makes it. Runs in a confined child.
 * @throws KilnError E_REPOSITORY_METADATA
 */
export function parseMetalink(text: string): Metalink {
  const root = parseXml(text, 'the metalink');
  const files = child(root, 'files');
  const file = children(files, 'file').find((element) => element.attributes.name === 'repomd.xml');
  if (root.name !== 'metalink' || file === undefined) throw broken('it is not about repomd.xml');
  const urls = children(child(file, 'resources'), 'url')
    .filter((url) => /^https?:\/\//.test(url.text) && url.text.endsWith(`/${REPOMD}`))
    .map((url) => ({
      base: url.text.slice(0, -REPOMD.length),
      preference: Number(url.attributes.preference ?? 0) || 0,
    }))
    .sort((a, b) => b.preference - a.preference);
  const older = children(child(file, 'alternates'), 'alternate');
  const repomds = [file, ...older].flatMap((element) => repomdDigest(element));
  if (urls.length === 0) throw broken('it names no http or https mirror');
  if (repomds.length === 0) throw broken('it has no sha256 or sha512 of repomd.xml');
  return { mirrors: [...new Set(urls.map((url) => url.base))], repomds };
}

function repomdDigest(element: XmlElement): Metalink['repomds'] {
  const hashes = children(child(element, 'verification'), 'hash');
  const of = (algorithm: string, length: number) => {
    const hex = hashes.find((hash) => hash.attributes.type === algorithm)?.text.toLowerCase();
    return hex?.length === length && /^[0-9a-f]+$/.test(hex) ? `${algorithm}:${hex}` : undefined;
  };
  const digest = of('sha512', 128) ?? of('sha256', 64);
  const size = child(element, 'size')?.text ?? '';
  if (digest === undefined) return [];
  return [{ digest, ...(/^\d{1,9}$/.test(size) ? { size: Number(size) } : {}) }];
}

function broken(why: string): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `the metalink is broken: ${why}`, {
    hint: 'try again later, or give a baseurl instead',
  });
}
