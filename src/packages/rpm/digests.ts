/**
 * The digests that a package has of itself. They depend on its age: v3 has an MD5 of header and payload, v4
 * adds SHA-1 and SHA-256 of the header and later SHA-256 of the payload, v6 has SHA-256, SHA-512 and SHA3-256.
 * Source: rpm's docs/manual/signatures_digests.md.
 */
import { createHash, getHashes, type Hash, hash } from 'node:crypto';
import { readSync } from 'node:fs';
import { hashName } from './files.ts';
import type { RpmDigest, RpmPackage } from './package.ts';
import type { RpmSections } from './sections.ts';
import { SigTag, Tag } from './tags.ts';

type Expected = Pick<RpmDigest, 'scope' | 'algorithm' | 'expected'>;

/** How much of a package is read for the check. */
export type DigestDepth =
  /** The header only. */
  | 'header'
  /** The header, and the payload by its strongest digest: enough to trust it. */
  | 'payload'
  /** Every digest there is of header and payload. */
  | 'all';

let hashes: ReadonlySet<string> | undefined;

/** Loads Node's cryptography ahead of time, which takes milliseconds. */
export function loadHashes(): void {
  isAvailable('sha256');
}

function isAvailable(algorithm: string): boolean {
  hashes ??= new Set(getHashes());
  return hashes.has(algorithm);
}

/** Every digest of the package; those that `depth` leaves out are `unchecked`. */
export function checkDigests(fd: number, sections: RpmSections, depth: DigestDepth): RpmDigest[] {
  const expected = expectedDigests(sections);
  const wanted = new Set(expected.filter((digest) => isWanted(digest, expected, depth)));
  const running = new Map<Expected, Hash>();
  for (const digest of wanted) {
    if (digest.scope === 'header' || !isAvailable(digest.algorithm)) continue;
    const state = createHash(digest.algorithm);
    if (digest.scope === 'header+payload') state.update(sections.header.bytes);
    running.set(digest, state);
  }
  if (running.size > 0) {
    eachChunk(fd, sections.headerEnd, (piece) => {
      for (const state of running.values()) state.update(piece);
    });
  }
  return expected.map((digest): RpmDigest => {
    if (!wanted.has(digest)) return { ...digest, actual: null, status: 'unchecked' };
    if (!isAvailable(digest.algorithm)) {
      return { ...digest, actual: null, status: 'unsupported' };
    }
    const actual =
      running.get(digest)?.digest('hex') ?? hash(digest.algorithm, sections.header.bytes, 'hex');
    return { ...digest, actual, status: actual === digest.expected ? 'ok' : 'bad' };
  });
}

function expectedDigests({ signature, header }: RpmSections): Expected[] {
  const list: Expected[] = [];
  const add = (
    scope: RpmDigest['scope'],
    algorithm: string | undefined,
    expected: string | undefined,
  ) => {
    if (expected === undefined || expected === '') return;
    list.push({ scope, algorithm: algorithm ?? 'unknown', expected: expected.toLowerCase() });
  };
  const payloadAlgorithm = hashName(header.number(Tag.payloadDigestAlgo) ?? 8);
  add('header', 'sha1', signature.string(SigTag.sha1Header));
  add('header', 'sha256', signature.string(SigTag.sha256Header));
  add('header', 'sha3-256', signature.string(SigTag.sha3Header));
  add('payload', payloadAlgorithm, header.string(Tag.payloadSha256));
  add('payload', 'sha512', header.string(Tag.payloadSha512));
  add('payload', 'sha3-256', header.string(Tag.payloadSha3));
  add('archive', payloadAlgorithm, header.string(Tag.payloadSha256Alt));
  add('archive', 'sha512', header.string(Tag.payloadSha512Alt));
  add('archive', 'sha3-256', header.string(Tag.payloadSha3Alt));
  add('header+payload', 'md5', signature.binary(SigTag.md5)?.toString('hex'));
  return list;
}

function isWanted(digest: Expected, all: readonly Expected[], depth: DigestDepth): boolean {
  switch (digest.scope) {
    case 'header':
      return true;
    case 'archive':
      return false;
    default:
      if (depth === 'header') return false;
      return depth === 'all' || digest === strongest(all);
  }
}

/** The first payload digest (SHA-256 where there are several), else the MD5 over everything. */
function strongest(all: readonly Expected[]): Expected | undefined {
  return (
    all.find(({ scope }) => scope === 'payload') ??
    all.find(({ scope }) => scope === 'header+payload')
  );
}

/** What the digests say: a list of faults, empty for a whole package. */
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

/* Reads the compressed payload in large pieces into the same memory. */

const CHUNK = 1024 * 1024;

let memory: Buffer | undefined;

/**
 * Calls `use` with each piece of the file from `start` to its end. The piece is valid only during
 * the call.
 */
export function eachChunk(fd: number, start: number, use: (piece: Buffer) => void): void {
  memory ??= Buffer.allocUnsafeSlow(CHUNK);
  const chunk = memory;
  for (let at = start; ; ) {
    const count = readSync(fd, chunk, 0, CHUNK, at);
    if (count === 0) return;
    use(chunk.subarray(0, count));
    at += count;
  }
}
