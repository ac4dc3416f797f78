/**
 * What librpmio does not tell of an OpenPGP signature: the algorithms of a packet that it cannot read, and what
 * version 6 adds. Nothing here is verified. Sources: RFC 9580, 4.2 and 5.2; RFC 4880, 5.2.2 for version 3.
 */
import { hashName } from '../files.ts';

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

/** Those that librpmio of rpm 4.19 can read. */
const OLD_KEY_ALGORITHMS = new Set([1, 3, 17, 19, 22]);

const SIGNATURE_TAG = 2;

/** The type of the subpacket that names the key by its fingerprint; the highest bit says "critical". */
const ISSUER_FINGERPRINT = 33;
const CRITICAL = 0x80;

export interface OuterPacket {
  readonly version: number;
  readonly keyAlgorithm: number;
  readonly hashAlgorithm: number;
  readonly issuer?: string | undefined;
  readonly salt?: Buffer | undefined;
}

export function algorithmName(keyAlgorithm: number, hashAlgorithm: number): string {
  const key = KEY_ALGORITHMS[keyAlgorithm] ?? `algorithm ${keyAlgorithm}`;
  return `${key}/${hashName(hashAlgorithm)?.toUpperCase() ?? `hash ${hashAlgorithm}`}`;
}

export function isKnown({ version, keyAlgorithm, hashAlgorithm }: OuterPacket): boolean {
  return (
    (version === 3 || version === 4) &&
    OLD_KEY_ALGORITHMS.has(keyAlgorithm) &&
    hashName(hashAlgorithm) !== undefined
  );
}

export function* splitPackets(bytes: Buffer): Generator<Buffer> {
  for (let rest = bytes; rest.length > 0; ) {
    const packet = readPacket(rest);
    if (packet === undefined) return;
    yield rest.subarray(0, packet.end);
    rest = rest.subarray(packet.end);
  }
}

export function readOuterPacket(bytes: Buffer): OuterPacket | undefined {
  const packet = readPacket(bytes);
  if (packet?.tag !== SIGNATURE_TAG) return undefined;
  const { body } = packet;
  try {
    const version = body.readUInt8(0);
    const at = version === 3 ? 15 : 2;
    const outer = {
      version,
      keyAlgorithm: body.readUInt8(at),
      hashAlgorithm: body.readUInt8(at + 1),
    };
    return version === 6 ? { ...outer, ...readVersion6(body) } : outer;
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/** Old and new packet headers; there are no partial lengths in a signature. */
function readPacket(bytes: Buffer) {
  try {
    const first = bytes.readUInt8(0);
    if ((first & 0x80) === 0) return undefined;
    const isNew = (first & 0x40) !== 0;
    const tag = isNew ? first & 0x3f : (first >> 2) & 0x0f;
    const { start, length } = isNew ? newLength(bytes, 1) : oldLength(bytes, first & 3);
    const end = start + length;
    return end > bytes.length ? undefined : { tag, body: bytes.subarray(start, end), end };
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function oldLength(bytes: Buffer, type: number): { start: number; length: number } {
  if (type === 0) return { start: 2, length: bytes.readUInt8(1) };
  if (type === 1) return { start: 3, length: bytes.readUInt16BE(1) };
  if (type === 2) return { start: 5, length: bytes.readUInt32BE(1) };
  return { start: 1, length: bytes.length - 1 };
}

function newLength(bytes: Buffer, at: number): { start: number; length: number } {
  const first = bytes.readUInt8(at);
  if (first < 192) return { start: at + 1, length: first };
  if (first < 255) {
    return { start: at + 2, length: ((first - 192) << 8) + bytes.readUInt8(at + 1) + 192 };
  }
  return { start: at + 5, length: bytes.readUInt32BE(at + 1) };
}

/** Two areas of subpackets with four bytes of length each, two bytes of the digest, the salt. */
function readVersion6(body: Buffer): { issuer: string | undefined; salt: Buffer } {
  const hashedEnd = 8 + body.readUInt32BE(4);
  const unhashedEnd = hashedEnd + 4 + body.readUInt32BE(hashedEnd);
  const areas = [body.subarray(8, hashedEnd), body.subarray(hashedEnd + 4, unhashedEnd)];
  const saltStart = unhashedEnd + 3;
  const salt = body.subarray(saltStart, saltStart + body.readUInt8(unhashedEnd + 2));
  return { issuer: issuerIn(areas[0]!) ?? issuerIn(areas[1]!), salt };
}

function issuerIn(area: Buffer): string | undefined {
  for (let at = 0; at < area.length; ) {
    const { start, length } = newLength(area, at);
    // After the type comes the key's version.
    if ((area.readUInt8(start) & ~CRITICAL) === ISSUER_FINGERPRINT) {
      return area.toString('hex', start + 2, start + length);
    }
    at = start + Math.max(length, 1);
  }
  return undefined;
}
