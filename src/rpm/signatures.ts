/**
 * Who signed a package. Signatures over the header are OpenPGP version 4 (tags 267, 268) or any
 * number of any version (278, rpm 6); the oldest kind (1002, 1005) covers header and payload.
 * Source: rpm's docs/manual/signatures_digests.md.
 */
import type { KeyMatch, Keyring } from './keyring.ts';
import type { RpmPackage, RpmSignature } from './package.ts';
import { eachChunk } from './payload-bytes.ts';
import { verifyRsa } from './rsa-signature.ts';
import type { RpmSections } from './sections.ts';
import { parseSignaturePacket, type SignaturePacket } from './signature-packet.ts';
import { SigTag } from './tags.ts';

type Verdict = Pick<RpmSignature, 'status' | 'reason'>;

interface Found {
  readonly scope: RpmSignature['scope'];
  readonly bytes: Buffer;
}

/**
 * Every signature of the package, checked with `keyring`.
 * @param withPayload Also check those that cover the payload; else they are `unchecked`.
 */
export async function checkSignatures(
  fd: number,
  sections: RpmSections,
  keyring: Keyring | null,
  withPayload: boolean,
): Promise<RpmSignature[]> {
  const checked: RpmSignature[] = [];
  for (const { scope, bytes } of findSignatures(sections)) {
    const packet = parseSignaturePacket(bytes);
    const match = keyring?.find(packet);
    const verdict = await judge(fd, sections, { scope, bytes }, packet, match, withPayload);
    checked.push({
      scope,
      algorithm: packet.algorithm,
      version: packet.version,
      keyId: packet.version === 6 ? (packet.fingerprint ?? packet.keyId) : packet.keyId,
      created: packet.created,
      ...verdict,
      signer: match?.signer ?? null,
    });
  }
  return checked;
}

function findSignatures({ signature }: RpmSections): Found[] {
  const found: Found[] = [];
  const add = (scope: Found['scope'], bytes: Buffer | undefined) => {
    if (bytes !== undefined) found.push({ scope, bytes });
  };
  for (const text of signature.strings(SigTag.openpgp) ?? []) {
    add('header', Buffer.from(text, 'base64'));
  }
  add('header', signature.binary(SigTag.rsaHeader));
  add('header', signature.binary(SigTag.dsaHeader));
  add('header+payload', signature.binary(SigTag.pgp));
  add('header+payload', signature.binary(SigTag.gpg));
  return found;
}

async function judge(
  fd: number,
  sections: RpmSections,
  { scope, bytes }: Found,
  packet: SignaturePacket,
  match: KeyMatch | undefined,
  withPayload: boolean,
): Promise<Verdict> {
  if (match === undefined) return { status: 'nokey', reason: 'no key of the keyring made it' };
  if (scope === 'header+payload' && !withPayload) return { status: 'unchecked', reason: null };
  const { type, critical, created } = packet;
  if (type !== 0) return bad(`it signs something of type ${type}, not a document`);
  if (critical !== null) return unsupported(`it must not be used without subpacket ${critical}`);
  if (created === null) return bad('it does not say when it was made');
  // Keys expire, packages stay: a key must have been good when it signed.
  const signedAt = new Date(created * 1000);
  const byRsa = match.rsa !== null && packet.version !== 6;
  // The library would need a whole payload in memory.
  if (byRsa || scope === 'header+payload' || match.library === undefined) {
    const invalid = await match.whyInvalid(signedAt);
    if (invalid !== undefined) return bad(invalid);
    return verifyRsa(packet, match.rsa, (use) => {
      use(sections.header.bytes);
      if (scope === 'header+payload') eachChunk(fd, sections.headerEnd, use);
    });
  }
  return await verifyWithLibrary(bytes, sections.header.bytes, signedAt, match.library);
}

async function verifyWithLibrary(
  bytes: Buffer,
  signed: Buffer,
  signedAt: Date,
  { openpgp, key }: NonNullable<KeyMatch['library']>,
): Promise<Verdict> {
  try {
    const result = await openpgp.verify({
      message: await openpgp.createMessage({ binary: signed }),
      signature: await openpgp.readSignature({ binarySignature: bytes }),
      verificationKeys: key,
      date: signedAt,
    });
    const [first] = result.signatures;
    if (first === undefined) return unsupported('openpgp cannot read it');
    await first.verified;
    return { status: 'ok', reason: null };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return /unsupported|unknown|not supported|No signature packet/i.test(reason)
      ? unsupported(reason)
      : bad(reason);
  }
}

function bad(reason: string): Verdict {
  return { status: 'bad', reason };
}

function unsupported(reason: string): Verdict {
  return { status: 'unsupported', reason };
}

/**
 * `trusted`: a key of the keyring signed it and no signature is wrong. `untrusted`: unsigned, or
 * signed by others only. `broken`: a key of the keyring says that this is not what it signed.
 */
export function signatureVerdict(
  signatures: RpmPackage['signatures'],
): 'trusted' | 'untrusted' | 'broken' {
  if (signatures.some(({ status }) => status === 'bad')) return 'broken';
  return signatures.some(({ status }) => status === 'ok') ? 'trusted' : 'untrusted';
}
