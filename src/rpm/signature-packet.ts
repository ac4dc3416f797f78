/**
 * The outside of an OpenPGP signature: who says he made it, with what, when. Nothing here is
 * verified. Sources: RFC 9580, 5.2; RFC 4880, 5.2.2 for version 3.
 */
import { rpmError } from './errors.ts';

/** Public key algorithms as rpm names them (rpmio/rpmpgpval.cc; newer ones as in RFC 9580). */
const KEY_ALGORITHMS: Readonly<Record<number, string>> = {
  1: 'RSA',
  3: 'RSA',
  17: 'DSA',
  19: 'ECDSA',
  22: 'EdDSA',
  27: 'Ed25519',
  28: 'Ed448',
  30: 'ML-DSA-65+Ed25519',
  31: 'ML-DSA-87+Ed448',
};

/** Hash algorithms, RFC 9580, 9.5. */
const HASH_ALGORITHMS: Readonly<Record<number, string>> = {
  1: 'MD5',
  2: 'SHA1',
  3: 'RIPEMD160',
  8: 'SHA256',
  9: 'SHA384',
  10: 'SHA512',
  11: 'SHA224',
  12: 'SHA3-256',
  14: 'SHA3-512',
};

const SIGNATURE_TAG = 2;
const Subpacket = { created: 2, issuer: 16, issuerFingerprint: 33 };

/** The highest bit of a subpacket's type: who does not know it must not trust the signature. */
const CRITICAL = 0x80;

/**
 * Subpackets that may be critical here (RFC 9580, 5.2.3.7): what they say of a document's signature is
 * heeded, or is of no account for it. Not among them: notations, keys that may revoke, recipients.
 */
const KNOWN = new Set([
  ...[
    Subpacket.created,
    3,
    4,
    5,
    6,
    7,
    9,
    11,
    Subpacket.issuer,
    21,
    22,
    23,
    24,
    25,
    26,
    27,
    28,
    29,
  ],
  ...[30, 31, 32, Subpacket.issuerFingerprint, 34, 39],
]);

export interface SignaturePacket {
  readonly version: number;
  /** 0x00: of a binary document; nothing else makes sense on a package. */
  readonly type: number;
  readonly keyAlgorithm: number;
  readonly hashAlgorithm: number;
  /** `RSA/SHA256` and so on. */
  readonly algorithm: string;
  /** Seconds since 1970. */
  readonly created: number | null;
  /** A critical subpacket that is not known. */
  readonly critical: number | null;
  /** Lower-case hex; `''` where the signature does not say. */
  readonly keyId: string;
  readonly fingerprint: string | null;
  /** What is hashed after the signed data (versions 3 and 4). */
  readonly trailer: Buffer;
  /** The algorithm's own numbers, still encoded. */
  readonly parameters: Buffer;
}

/** Reads the first packet. @throws KilnError E_RPM_FORMAT when it is no signature. */
export function parseSignaturePacket(bytes: Buffer): SignaturePacket {
  try {
    const body = packetBody(bytes);
    const version = body.readUInt8(0);
    if (version === 3) return parseVersion3(body);
    if (version === 4 || version === 6) return parseVersion4(body, version);
    throw rpmError('E_RPM_FORMAT', `a signature has the unknown version ${version}`);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw rpmError('E_RPM_FORMAT', 'a signature is cut off', { cause });
  }
}

/** Source: RFC 9580, 4.2: old and new packet headers; no partial lengths in a signature. */
function packetBody(bytes: Buffer): Buffer {
  const first = bytes.readUInt8(0);
  if ((first & 0x80) === 0) throw rpmError('E_RPM_FORMAT', 'a signature is no OpenPGP packet');
  const isNew = (first & 0x40) !== 0;
  const tag = isNew ? first & 0x3f : (first >> 2) & 0x0f;
  if (tag !== SIGNATURE_TAG) {
    throw rpmError('E_RPM_FORMAT', `a signature is an OpenPGP packet of type ${tag}`);
  }
  const { start, length } = isNew ? newLength(bytes, 1) : oldLength(bytes, first & 3);
  if (start + length > bytes.length) throw rpmError('E_RPM_FORMAT', 'a signature is cut off');
  return bytes.subarray(start, start + length);
}

function oldLength(bytes: Buffer, type: number): { start: number; length: number } {
  if (type === 0) return { start: 2, length: bytes.readUInt8(1) };
  if (type === 1) return { start: 3, length: bytes.readUInt16BE(1) };
  if (type === 2) return { start: 5, length: bytes.readUInt32BE(1) };
  return { start: 1, length: bytes.length - 1 };
}

/** Lengths of new packets and of subpackets. */
function newLength(bytes: Buffer, at: number): { start: number; length: number } {
  const first = bytes.readUInt8(at);
  if (first < 192) return { start: at + 1, length: first };
  if (first < 255) {
    return { start: at + 2, length: ((first - 192) << 8) + bytes.readUInt8(at + 1) + 192 };
  }
  return { start: at + 5, length: bytes.readUInt32BE(at + 1) };
}

function algorithmName(keyAlgorithm: number, hashAlgorithm: number): string {
  const key = KEY_ALGORITHMS[keyAlgorithm] ?? `algorithm ${keyAlgorithm}`;
  return `${key}/${HASH_ALGORITHMS[hashAlgorithm] ?? `hash ${hashAlgorithm}`}`;
}

function parseVersion3(body: Buffer): SignaturePacket {
  const keyAlgorithm = body.readUInt8(15);
  const hashAlgorithm = body.readUInt8(16);
  return {
    version: 3,
    type: body.readUInt8(2),
    keyAlgorithm,
    hashAlgorithm,
    algorithm: algorithmName(keyAlgorithm, hashAlgorithm),
    created: body.readUInt32BE(3),
    critical: null,
    keyId: body.toString('hex', 7, 15),
    fingerprint: null,
    trailer: body.subarray(2, 7),
    parameters: body.subarray(19),
  };
}

function parseVersion4(body: Buffer, version: 4 | 6): SignaturePacket {
  const keyAlgorithm = body.readUInt8(2);
  const hashAlgorithm = body.readUInt8(3);
  const wide = version === 6 ? 4 : 2;
  const hashedEnd = 4 + wide + body.readUIntBE(4, wide);
  const unhashedStart = hashedEnd + wide;
  const unhashedEnd = unhashedStart + body.readUIntBE(hashedEnd, wide);
  const unsigned: Said = { created: null, critical: null, keyId: '', fingerprint: null };
  readSubpackets(body.subarray(unhashedStart, unhashedEnd), unsigned);
  // What is signed comes last and wins. Of the rest only the issuer counts, which the key proves.
  const found = { ...unsigned, created: null, critical: null };
  readSubpackets(body.subarray(4 + wide, hashedEnd), found);
  const length = Buffer.alloc(6);
  length.writeUInt8(version, 0);
  length.writeUInt8(0xff, 1);
  length.writeUInt32BE(hashedEnd, 2);
  return {
    version,
    type: body.readUInt8(1),
    keyAlgorithm,
    hashAlgorithm,
    algorithm: algorithmName(keyAlgorithm, hashAlgorithm),
    ...found,
    trailer: Buffer.concat([body.subarray(0, hashedEnd), length]),
    parameters: body.subarray(unhashedEnd + 2),
  };
}

interface Said {
  created: number | null;
  critical: number | null;
  keyId: string;
  fingerprint: string | null;
}

function readSubpackets(area: Buffer, found: Said): void {
  for (let at = 0; at < area.length; ) {
    const { start, length } = newLength(area, at);
    const data = area.subarray(start + 1, start + length);
    const tag = area.readUInt8(start);
    const type = tag & ~CRITICAL;
    if ((tag & CRITICAL) !== 0 && !KNOWN.has(type)) found.critical = type;
    switch (type) {
      case Subpacket.created:
        found.created = data.readUInt32BE(0);
        break;
      case Subpacket.issuer:
        found.keyId = data.toString('hex', 0, 8);
        break;
      case Subpacket.issuerFingerprint:
        found.fingerprint = data.toString('hex', 1);
        found.keyId = keyIdOf(found.fingerprint);
        break;
      default:
    }
    at = start + Math.max(length, 1);
  }
}

/** RFC 9580, 5.5.4: the end of a version 4 fingerprint, the beginning of a longer one. */
function keyIdOf(fingerprint: string): string {
  return fingerprint.length === 40 ? fingerprint.slice(-16) : fingerprint.slice(0, 16);
}
