/**
 * RSA signatures of versions 3 and 4, what nearly all packages have. `openpgp` takes neither version 3
 * nor what is signed in pieces, and twenty times as long. Sources: RFC 9580, 5.2.4; RFC 4880, 5.2.2.
 */
import { createPublicKey, createVerify, type KeyObject } from 'node:crypto';
import type { RpmSignature } from './package.ts';
import type { SignaturePacket } from './signature-packet.ts';

const RSA = new Set([1, 3]);

/** Hash algorithms that are still trusted, by OpenPGP number. MD5, SHA-1 and RIPEMD are not. */
const HASHES: Readonly<Record<number, string>> = {
  8: 'sha256',
  9: 'sha384',
  10: 'sha512',
  11: 'sha224',
  12: 'sha3-256',
  14: 'sha3-512',
};

const MIN_BITS = 2047;

/** Modulus and exponent, base64url as in a JWK (RFC 7518, 6.3.1). */
export interface RsaKey {
  readonly n: string;
  readonly e: string;
}

/** A version 4 key packet's numbers; null for keys of other kinds. */
export function rsaKeyOf(packet: {
  readonly version: number;
  readonly algorithm: number;
  readonly publicParams: unknown;
}): RsaKey | null {
  if (packet.version !== 4 || !RSA.has(packet.algorithm)) return null;
  const { n, e } = packet.publicParams as { n: Uint8Array; e: Uint8Array };
  return { n: Buffer.from(n).toString('base64url'), e: Buffer.from(e).toString('base64url') };
}

/** @param signed Feeds everything that is signed, in pieces, to its argument. */
export function verifyRsa(
  packet: SignaturePacket,
  rsa: RsaKey | null,
  signed: (use: (piece: Buffer) => void) => void,
): Pick<RpmSignature, 'status' | 'reason'> {
  const hash = HASHES[packet.hashAlgorithm];
  if (!RSA.has(packet.keyAlgorithm) || hash === undefined || packet.version === 6) {
    const reason = `kiln does not trust version ${packet.version} ${packet.algorithm} signatures`;
    return { status: 'unsupported', reason };
  }
  if (rsa === null) return { status: 'bad', reason: 'the key that it names is no RSA key' };
  const key = keyObject(rsa);
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0;
  if (bits < MIN_BITS) {
    return { status: 'unsupported', reason: `its RSA key has less than ${MIN_BITS} bits` };
  }
  const number = padded(packet.parameters, Math.ceil(bits / 8));
  if (number === undefined) return { status: 'bad', reason: 'its number is cut off, or too long' };
  const verifier = createVerify(hash);
  signed((piece) => verifier.update(piece));
  verifier.update(packet.trailer);
  return verifier.verify(key, number)
    ? { status: 'ok', reason: null }
    : { status: 'bad', reason: 'Signed digest did not match' };
}

/** By modulus and exponent: to make one takes as long as to check a signature with it. */
const keyObjects = new Map<string, KeyObject>();

function keyObject({ n, e }: RsaKey): KeyObject {
  const name = `${n} ${e}`;
  const found = keyObjects.get(name);
  if (found !== undefined) return found;
  const made = createPublicKey({ key: { kty: 'RSA', n, e }, format: 'jwk' });
  keyObjects.set(name, made);
  return made;
}

/**
 * The multiprecision integer (16-bit length in bits, then bytes) at the modulus's full length; undefined if
 * that is not all there is.
 */
function padded(parameters: Buffer, size: number): Buffer | undefined {
  if (parameters.length < 2) return undefined;
  const bytes = parameters.subarray(2);
  if (bytes.length !== Math.ceil(parameters.readUInt16BE(0) / 8)) return undefined;
  return Buffer.concat([Buffer.alloc(Math.max(0, size - bytes.length)), bytes]);
}
