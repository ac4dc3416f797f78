/**
 * The digests that a package has of itself. They depend on its age: v3 has an MD5 of header and payload, v4
 * adds SHA-1 and SHA-256 of the header and later SHA-256 of the payload, v6 has SHA-256, SHA-512 and SHA3-256.
 * Source: rpm's docs/manual/signatures_digests.md.
 */
import { createHash, getHashes, type Hash, hash } from 'node:crypto';
import { filePieces } from '../../host/files/content.ts';
import { hashName } from './files.ts';
import type { RpmDigest, RpmPackage } from './package.ts';
import type { RpmSections } from './sections.ts';
import { SigTag, Tag } from './tags.ts';

type Expected = Pick<RpmDigest, 'scope' | 'algorithm' | 'expected'>;

/** What is checked. `payload`: the header, and the payload by its strongest digest; `all`: every digest there is. */
export type DigestDepth = 'header' | 'payload' | 'all';

/** Loads Node's cryptography with this module, which takes milliseconds: a confined child needs it soon. */
const HASHES: ReadonlySet<string> = new Set(getHashes());

export function checkDigests(fd: number, sections: RpmSections, depth: DigestDepth): RpmDigest[] {
  const expected = expectedDigests(sections);
  const wanted = new Set(expected.filter((digest) => isWanted(digest, expected, depth)));
  const running = new Map<Expected, Hash>();
  for (const digest of wanted) {
    if (digest.scope === 'header' || !HASHES.has(digest.algorithm)) continue;
    const state = createHash(digest.algorithm);
    if (digest.scope === 'header+payload') state.update(sections.header.bytes);
    running.set(digest, state);
  }
  if (running.size > 0) {
    for (const piece of filePieces(fd, sections.headerEnd)) {
      for (const state of running.values()) state.update(piece);
    }
  }
  return expected.map((digest): RpmDigest => {
    if (!wanted.has(digest)) return { ...digest, actual: null, status: 'unchecked' };
    if (!HASHES.has(digest.algorithm)) return { ...digest, actual: null, status: 'unsupported' };
    const actual =
      running.get(digest)?.digest('hex') ?? hash(digest.algorithm, sections.header.bytes, 'hex');
    return { ...digest, actual, status: actual === digest.expected ? 'ok' : 'bad' };
  });
}

function expectedDigests({ signature, header }: RpmSections): Expected[] {
  const payloadAlgorithm = hashName(header.number(Tag.payloadDigestAlgo) ?? 8);
  const found: [RpmDigest['scope'], string | undefined, string | undefined][] = [
    ['header', 'sha1', signature.string(SigTag.sha1Header)],
    ['header', 'sha256', signature.string(SigTag.sha256Header)],
    ['header', 'sha3-256', signature.string(SigTag.sha3Header)],
    ['payload', payloadAlgorithm, header.string(Tag.payloadSha256)],
    ['payload', 'sha512', header.string(Tag.payloadSha512)],
    ['payload', 'sha3-256', header.string(Tag.payloadSha3)],
    ['archive', payloadAlgorithm, header.string(Tag.payloadSha256Alt)],
    ['archive', 'sha512', header.string(Tag.payloadSha512Alt)],
    ['archive', 'sha3-256', header.string(Tag.payloadSha3Alt)],
    ['header+payload', 'md5', signature.binary(SigTag.md5)?.toString('hex')],
  ];
  return found.flatMap(([scope, algorithm = 'unknown', expected = '']) =>
    expected === '' ? [] : [{ scope, algorithm, expected: expected.toLowerCase() }],
  );
}

function isWanted(digest: Expected, all: readonly Expected[], depth: DigestDepth): boolean {
  if (digest.scope === 'header') return true;
  if (digest.scope === 'archive' || depth === 'header') return false;
  return depth === 'all' || digest === strongest(all);
}

function strongest(all: readonly Expected[]): Expected | undefined {
  return (
    all.find(({ scope }) => scope === 'payload') ??
    all.find(({ scope }) => scope === 'header+payload')
  );
}

export function digestFaults(digests: RpmPackage['digests']): string[] {
  const faults = digests
    .filter(({ status }) => status === 'bad')
    .map(
      ({ scope, algorithm, expected, actual }) =>
        `the ${algorithm} digest of its ${scope} is ${actual}, it should be ${expected}`,
    );
  const good = (scope: RpmDigest['scope']) =>
    digests.some((digest) => digest.scope === scope && digest.status === 'ok');
  if (faults.length > 0 || good('header+payload')) return faults;
  if (!good('header')) faults.push('no digest of its header can be checked');
  if (!good('payload')) faults.push('no digest of its payload can be checked');
  return faults;
}
