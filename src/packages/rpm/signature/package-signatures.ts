/**
 * Who signed a package. Signatures over the header are OpenPGP version 4 (tags 267, 268) or any
 * number of any version (278, rpm 6); the oldest kind (1002, 1005) covers header and payload.
 * Source: rpm's docs/manual/signatures_digests.md.
 */
import { filePieces } from '../../../host/files/content.ts';
import type { RpmPackage, RpmSignature } from '../package.ts';
import type { RpmSections } from '../sections.ts';
import { SigTag } from '../tags.ts';
import type { Keyring, SignedBytes } from './keyring.ts';

const BASE64 = /^[A-Za-z0-9+/\s]*=*\s*$/;

export function checkSignatures(
  fd: number,
  sections: RpmSections,
  keyring: Keyring,
  withPayload: boolean,
): RpmSignature[] {
  const header: SignedBytes = (use) => use(sections.header.bytes);
  const all: SignedBytes = (use) => {
    use(sections.header.bytes);
    for (const piece of filePieces(fd, sections.headerEnd)) use(piece);
  };
  return findSignatures(sections).map(({ scope, bytes }) => {
    const signed = scope === 'header' ? header : withPayload ? all : null;
    return { scope, ...keyring.judge(bytes, signed) };
  });
}

function findSignatures({ signature }: RpmSections) {
  const found: { readonly scope: RpmSignature['scope']; readonly bytes: Buffer }[] = [];
  const add = (scope: RpmSignature['scope'], bytes: Buffer | undefined) => {
    if (bytes !== undefined) found.push({ scope, bytes });
  };
  for (const text of signature.strings(SigTag.openpgp) ?? []) {
    // Node skips what is no base64; rpm takes nothing of it.
    add('header', BASE64.test(text) ? Buffer.from(text, 'base64') : Buffer.alloc(0));
  }
  add('header', signature.binary(SigTag.rsaHeader));
  add('header', signature.binary(SigTag.dsaHeader));
  add('header+payload', signature.binary(SigTag.pgp));
  add('header+payload', signature.binary(SigTag.gpg));
  return found;
}

/**
 * `trusted`: a key of the keyring signed it and no signature is wrong. `broken`: a signature that cannot be of this
 * package, or that its key could not make any more.
 */
export function signatureVerdict(
  signatures: RpmPackage['signatures'],
): 'trusted' | 'untrusted' | 'broken' {
  if (signatures.some(({ status }) => status === 'bad')) return 'broken';
  return signatures.some(({ status }) => status === 'ok') ? 'trusted' : 'untrusted';
}
