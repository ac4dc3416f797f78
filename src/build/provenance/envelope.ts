import type { SigningKey } from './signing-key.ts';

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
