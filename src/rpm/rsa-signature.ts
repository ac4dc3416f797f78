/**
 * RSA signatures that `openpgp` does not take: version 3 packets, which several distributions still
 * make, and signatures over a payload of any size. Sources: RFC 9580, 5.2.4; RFC 4880, 5.2.2.
 */
import { createPublicKey, createVerify } from 'node:crypto';
import type { KeyMatch } from './keyring.ts';
import type { RpmSignature } from './package.ts';
import type { SignaturePacket } from './signature-packet.ts';

const RSA = new Set([1, 3]);

/** Hash algorithms that are still trusted, by OpenPGP number. MD5, SHA-1 and RIPEMD are not. */
const HASHES: Readonly<Record<number, string>> = {
  8: 'sha256',
  9: 'sha384',
  10: 'sha512',
  11: 'sha224',
};

const MIN_BITS = 2047;

/** @param signed Feeds everything that is signed, in pieces, to its argument. */
export function verifyRsa(
  packet: SignaturePacket,
  part: KeyMatch['part'],
  signed: (use: (piece: Buffer) => void) => void,
): Pick<RpmSignature, 'status' | 'reason'> {
  const hash = HASHES[packet.hashAlgorithm];
  if (!RSA.has(packet.keyAlgorithm) || hash === undefined || packet.version === 6) {
    const reason = `kiln does not trust version ${packet.version} ${packet.algorithm} signatures`;
    return { status: 'unsupported', reason };
  }
  const { n, e } = part.keyPacket.publicParams as { n?: Uint8Array; e?: Uint8Array };
  if (n === undefined || e === undefined) {
    return { status: 'bad', reason: 'the key that it names is no RSA key' };
  }
  const modulus = Buffer.from(n);
  if (modulus.length * 8 < MIN_BITS) {
    return { status: 'unsupported', reason: `its RSA key has less than ${MIN_BITS} bits` };
  }
  const verifier = createVerify(hash);
  signed((piece) => verifier.update(piece));
  verifier.update(packet.trailer);
  const jwk = {
    kty: 'RSA',
    n: modulus.toString('base64url'),
    e: Buffer.from(e).toString('base64url'),
  };
  const key = createPublicKey({ key: jwk, format: 'jwk' });
  return verifier.verify(key, padded(packet.parameters, modulus.length))
    ? { status: 'ok', reason: null }
    : { status: 'bad', reason: 'Signed digest did not match' };
}

/** The multiprecision integer (16-bit length in bits, then bytes) at the modulus's full length. */
function padded(parameters: Buffer, size: number): Buffer {
  const bytes = parameters.subarray(2, 2 + Math.ceil(parameters.readUInt16BE(0) / 8));
  return Buffer.concat([Buffer.alloc(Math.max(0, size - bytes.length)), bytes]);
}
