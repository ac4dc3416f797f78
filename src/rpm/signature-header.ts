/**
 * Writes a signature header. Source: rpm's docs/manual/format_header.md, format_v4.md and
 * format_v6.md; lib/header.cc (headerUnload) for the order of the store.
 */
import { ELEMENT_SIZE, ENTRY_SIZE, INTRO_SIZE, MAGIC, type RawEntry, Type } from './header.ts';
import { SigTag } from './tags.ts';

/** The main header, and with it everything before it, begins at a multiple of this. */
const ALIGNMENT = 8;

/** Tags with somebody's signature: what they vouch for is not what the new key's owner does. */
const SIGNATURES: ReadonlySet<number> = new Set([
  ...[SigTag.dsaHeader, SigTag.rsaHeader, SigTag.openpgp],
  ...[SigTag.pgp, SigTag.gpg],
]);

/** Public key algorithm RSA in OpenPGP (RFC 9580, 9.1). */
const RSA = 1;

/** An OpenPGP signature of a main header. */
export interface HeaderSignature {
  /** The packet. */
  readonly bytes: Buffer;
  /** Of the packet: 4 or 6. */
  readonly version: number;
  /** Public key algorithm, RFC 9580, 9.1. */
  readonly keyAlgorithm: number;
}

/**
 * The entries of a signed package: those it had, with `signature` in place of all other signatures.
 * @param format The package's: rpm 4 knows one signature per kind of key, its tag is the kind; since
 * format 6 there is one tag for all, and version 6 signatures have no other.
 */
export function withSignature(
  entries: readonly RawEntry[],
  format: number,
  { bytes, version, keyAlgorithm }: HeaderSignature,
): RawEntry[] {
  const others = entries.filter(({ tag }) => tag !== SigTag.region && !SIGNATURES.has(tag));
  if (format >= 6 || version >= 6) {
    const data = Buffer.from(`${bytes.toString('base64')}\0`);
    return [...others, { tag: SigTag.openpgp, type: Type.array, count: 1, data }];
  }
  const tag = keyAlgorithm === RSA ? SigTag.rsaHeader : SigTag.dsaHeader;
  return [...others, { tag, type: Type.bin, count: bytes.length, data: bytes }];
}

/** The whole signature header with its region over all of it, and padded for what comes after. */
export function encodeSignatureHeader(entries: readonly RawEntry[]): Buffer {
  const sorted = [...entries].sort((a, b) => a.tag - b.tag);
  const count = sorted.length + 1;
  const index: Buffer[] = [];
  const store: Buffer[] = [];
  let size = 0;
  for (const { tag, type, count: elements, data } of sorted) {
    const gap = -size & (Math.max(ELEMENT_SIZE[type] ?? 1, 1) - 1);
    store.push(Buffer.alloc(gap), data);
    index.push(indexEntry(tag, type, size + gap, elements));
    size += gap + data.length;
  }
  // The trailer is an entry whose offset leads back over the index.
  store.push(indexEntry(SigTag.region, Type.bin, -count * ENTRY_SIZE, ENTRY_SIZE));
  const region = indexEntry(SigTag.region, Type.bin, size, ENTRY_SIZE);
  size += ENTRY_SIZE;
  const intro = Buffer.alloc(INTRO_SIZE);
  MAGIC.copy(intro);
  intro.writeUInt32BE(count, 8);
  intro.writeUInt32BE(size, 12);
  return Buffer.concat([intro, region, ...index, ...store, Buffer.alloc(-size & (ALIGNMENT - 1))]);
}

function indexEntry(tag: number, type: number, offset: number, count: number): Buffer {
  const bytes = Buffer.alloc(ENTRY_SIZE);
  bytes.writeUInt32BE(tag, 0);
  bytes.writeUInt32BE(type, 4);
  bytes.writeInt32BE(offset, 8);
  bytes.writeUInt32BE(count, 12);
  return bytes;
}
