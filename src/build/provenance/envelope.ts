import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { KilnError } from '../../errors.ts';
import { readUserFile } from '../../kernel/user-file.ts';

/** A private key that signs provenance. */
export interface SigningKey {
  /** sha256 of the public key (SubjectPublicKeyInfo, DER), hex: what verifiers look it up by. */
  readonly keyId: string;
  sign(message: Buffer): Buffer;
}

/** Bytes of a file with one key. */
const MAX_KEY = 64 * 1024;

/** Digests that belong to the curves; ed25519 has its own. */
const EC_DIGESTS: Readonly<Record<string, string>> = {
  prime256v1: 'sha256',
  secp384r1: 'sha384',
  secp521r1: 'sha512',
};

/**
 * Reads a private key: PEM, ed25519 or ECDSA on P-256, P-384 or P-521, as
 * `openssl genpkey -algorithm ed25519` writes it.
 * @throws KilnError E_PROVENANCE_KEY
 */
export async function readSigningKey(path: string): Promise<SigningKey> {
  let key: KeyObject;
  try {
    key = createPrivateKey(readUserFile(path, MAX_KEY, 'anything'));
  } catch (cause) {
    throw new KilnError('E_PROVENANCE_KEY', `${path} is not a readable private key`, {
      cause,
      hint: '`openssl genpkey -algorithm ed25519` makes one; it must not have a passphrase',
    });
  }
  const digest = digestFor(key);
  if (digest === undefined) {
    throw new KilnError('E_PROVENANCE_KEY', `${path} is a key of the wrong kind`, {
      hint: 'ed25519, or ECDSA on P-256, P-384 or P-521: `openssl genpkey -algorithm ed25519`',
    });
  }
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' });
  return {
    keyId: createHash('sha256').update(spki).digest('hex'),
    sign: (message) => sign(digest, message, key),
  };
}

/** Null for an algorithm that hashes by itself; undefined for one that is not taken. */
function digestFor(key: KeyObject): string | null | undefined {
  if (key.asymmetricKeyType === 'ed25519') return null;
  if (key.asymmetricKeyType !== 'ec') return undefined;
  return EC_DIGESTS[key.asymmetricKeyDetails?.namedCurve ?? ''];
}

/** The name of the signed provenance in a result directory. */
export const ENVELOPE_FILE = 'provenance.intoto.jsonl';

/** The media type of an in-toto Statement. */
const PAYLOAD_TYPE = 'application/vnd.in-toto+json';

/**
 * A statement in a signed DSSE envelope, on one line. Source: the DSSE specification 1.0.2
 * (protocol.md, envelope.md), in-toto's envelope for attestations.
 */
export function signedEnvelope(statement: string, key: SigningKey): string {
  const payload = Buffer.from(statement);
  const signature = key.sign(preAuthEncoding(payload));
  const envelope = {
    payload: payload.toString('base64'),
    payloadType: PAYLOAD_TYPE,
    signatures: [{ keyid: key.keyId, sig: signature.toString('base64') }],
  };
  return `${JSON.stringify(envelope)}\n`;
}

/** DSSE's PAE: what is signed. Lengths are in bytes. */
function preAuthEncoding(payload: Buffer): Buffer {
  const head = `DSSEv1 ${Buffer.byteLength(PAYLOAD_TYPE)} ${PAYLOAD_TYPE} ${payload.length} `;
  return Buffer.concat([Buffer.from(head), payload]);
}
