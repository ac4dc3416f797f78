import { KilnError } from '../../../errors.ts';
import type { Pointer } from '../../../host/calls/c-library.ts';
import type { RpmSignature } from '../package.ts';
import { Armor, type Explained, type Librpmio, Tag, Verdict } from './librpmio.ts';
import { algorithmName, isKnown, type OuterPacket, readOuterPacket } from './signature-packet.ts';

/** The keyring sees bytes, and not which part of a package they are. */
export type JudgedSignature = Omit<RpmSignature, 'scope'>;

export type SignedBytes = (use: (piece: Buffer) => void) => void;

/** A key or a subkey; fingerprint and signer are of its main key. */
interface Key {
  readonly item: Pointer;
  readonly keyId: string;
  readonly algorithm: number;
  readonly fingerprint: string;
  readonly signer: string | null;
  /** Why the library cannot use it: what it says of a signature then means nothing. */
  readonly unusable: string | null;
}

/** OpenPGP's type of a signature over bytes as they are (RFC 9580, 5.2.1): packages have no other. */
const BINARY = 0;

const KEY_ID = 16;

const NO_KEY = 'no key of the keyring made it';

/** What the library says of a key whose time or trust is over; everything else is about algorithms. */
const KEY_IS_OVER = /revoked|not alive|not live|expired/i;

/** What the library says of a key that it cannot use: of a weak or an unknown algorithm. */
const KEY_IS_UNUSABLE = /Policy rejects|not supported/;

export class Keyring {
  readonly #library: Librpmio;
  readonly #keys: readonly Key[];

  /**
   * Reads armored keys: a text may hold several blocks, and a block several keys. Unreadable keys are left out.
   * @throws KilnError E_KEYRING for a text without an armored key, and for a damaged one
   */
  constructor(library: Librpmio, texts: readonly string[]) {
    this.#library = library;
    const certificates = texts.flatMap((text) => [...readCertificates(text, library)]);
    this.#keys = merged(certificates, library).flatMap((certificate) => [
      ...readCertificate(library, certificate),
    ]);
  }

  /** @param signed null where that is not at hand: the signature stays `unchecked` if its key is known */
  judge(signature: Buffer, signed: SignedBytes | null): JudgedSignature {
    const outer = readOuterPacket(signature);
    const { item, lints } = this.#library.parse(signature, Tag.signature);
    if (item === null) return unreadable(outer, lints);
    try {
      return this.#judgeItem(item, outer, signed);
    } finally {
      this.#library.free(item);
    }
  }

  #judgeItem(
    item: Pointer,
    outer: OuterPacket | undefined,
    signed: SignedBytes | null,
  ): JudgedSignature {
    const library = this.#library;
    const version = library.version(item);
    const algorithm = library.publicKeyAlgorithm(item);
    const hashAlgorithm = library.hashAlgorithm(item);
    // rpm 4.20 gives the wrong end of a version 6 fingerprint.
    const issuer = version === 6 ? outer?.issuer : undefined;
    const keyId = issuer?.slice(0, KEY_ID) ?? library.keyId(item);
    const keys = this.#keys.filter((key) => key.keyId === keyId && key.algorithm === algorithm);
    const judged = (key: Key | undefined, { status, reason }: Judgement): JudgedSignature => ({
      algorithm: algorithmName(algorithm, hashAlgorithm),
      version,
      keyId: issuer ?? keyId,
      created: library.created(item) || null,
      status,
      reason,
      signer: key?.signer ?? null,
      fingerprint: key?.fingerprint ?? null,
    });
    const [first] = keys;
    const type = library.signatureType(item);
    if (type !== BINARY) {
      return judged(first, bad(`it signs something of type ${type}, not a document`));
    }
    if (signed === null) {
      return judged(first, first === undefined ? NOKEY : { status: 'unchecked', reason: null });
    }
    const digest = library.startDigest(hashAlgorithm);
    if (digest === undefined) return judged(first, unsupported('rpm does not know its digest'));
    try {
      if (outer?.salt !== undefined) library.updateDigest(digest, outer.salt);
      signed((piece) => library.updateDigest(digest, piece));
      if (first === undefined) {
        // Even without a key rpm sees whether the digest begins as the signature says; not of version 6.
        const result = version === 6 ? undefined : library.verify(0n, item, digest);
        const isWrong = result?.code === Verdict.fail;
        return judged(undefined, isWrong ? bad(explain(result.lints)) : NOKEY);
      }
      // Two keys may have one id. Copies of one that rpm cannot merge may disagree: then the one that is over counts.
      const judgements = keys.map((key) =>
        judged(key, judgeWith(key, library.verify(key.item, item, digest))),
      );
      const by = (status: RpmSignature['status']) =>
        judgements.find((judgement) => judgement.status === status);
      const good = by('ok');
      const over = judgements.find(
        ({ fingerprint, reason }) =>
          fingerprint === good?.fingerprint && KEY_IS_OVER.test(reason ?? ''),
      );
      return over ?? good ?? by('unsupported') ?? judgements[0]!;
    } finally {
      library.endDigest(digest);
    }
  }
}

interface Judgement {
  readonly status: RpmSignature['status'];
  readonly reason: string | null;
}

const NOKEY: Judgement = { status: 'nokey', reason: NO_KEY };

function bad(reason: string): Judgement {
  return { status: 'bad', reason };
}

function unsupported(reason: string): Judgement {
  return { status: 'unsupported', reason };
}

/**
 * What the library's answer means. rpm has one word (NOTTRUSTED) for what was signed with a weak
 * algorithm and for what a revoked or expired key signed; only the former may be an honest package's.
 */
function judgeWith({ unusable }: Key, { code, lints }: Explained): Judgement {
  if (code === Verdict.ok) return { status: 'ok', reason: null };
  const reason = explain(lints);
  if (code === Verdict.notTrusted && !KEY_IS_OVER.test(reason)) return unsupported(reason);
  return code === Verdict.notTrusted || unusable === null ? bad(reason) : unsupported(unusable);
}

/** A packet that rpm cannot read: forged or damaged, unless it is of a kind that rpm has not heard of. */
function unreadable(outer: OuterPacket | undefined, lints: string | null): JudgedSignature {
  const { version = 0, keyAlgorithm = 0, hashAlgorithm = 0, issuer = '' } = outer ?? {};
  const reason = `rpm cannot read it: ${explain(lints)}`;
  return {
    algorithm: algorithmName(keyAlgorithm, hashAlgorithm),
    version,
    keyId: issuer,
    created: null,
    ...(outer === undefined || isKnown(outer) ? bad(reason) : unsupported(reason)),
    signer: null,
    fingerprint: null,
  };
}

function explain(lints: string | null): string {
  const lines = (lints ?? '').split('\n').map((line) => line.trim());
  const said = lines.filter((line, index) => line !== '' && (index > 0 || !line.endsWith(':')));
  const text = said.join('; ').replaceAll('; because:', ', because');
  // The text may quote notations of the signature, which is hostile.
  return (
    text.replace(/[\u0000-\u001f\u007f-\u009f]/g, '\ufffd') || 'it does not match what was signed'
  );
}

function* readCertificates(text: string, library: Librpmio): Generator<Buffer> {
  const blocks = text.split(ARMORED_KEY).slice(1);
  if (blocks.length === 0) {
    throw new KilnError('E_KEYRING', 'a keyring holds no armored public key', {
      hint: `it must hold text that begins with ${ARMORED_KEY}`,
    });
  }
  for (const block of blocks) {
    const packets = library.dearmor(ARMORED_KEY + block);
    if (packets?.kind !== Armor.publicKey) throw brokenError();
    let rest = packets.bytes;
    do {
      const length = library.certificateLength(rest);
      if (length === undefined) throw brokenError();
      yield rest.subarray(0, length);
      rest = rest.subarray(length);
    } while (rest.length > 0);
  }
}

/** One of each key: a newer copy may have revoked it, or let it expire, and an older one must not say otherwise. */
function merged(certificates: readonly Buffer[], library: Librpmio): Buffer[] {
  const copies = Map.groupBy(certificates, (certificate) => library.fingerprint(certificate));
  return [...copies].flatMap(([fingerprint, [first, ...others]]) => {
    if (first === undefined) return [];
    if (fingerprint === '') return [first, ...others];
    const whole = others.reduce<Buffer | undefined>(
      (before, other) => before && library.merge(before, other),
      first,
    );
    return whole === undefined ? [first, ...others] : [whole];
  });
}

function brokenError(): KilnError {
  return new KilnError('E_KEYRING', 'a key of the keyring is broken', {
    hint: 'export it again: `gpg --armor --export KEY`',
  });
}

function* readCertificate(library: Librpmio, certificate: Buffer): Generator<Key> {
  const { item: main } = library.parse(certificate, Tag.publicKey);
  if (main === null) return;
  const lint = library.lint(certificate);
  const lines = lint.lints?.split('\n') ?? [];
  const fingerprint = library.fingerprint(certificate);
  const signer = library.userId(main);
  const mainId = library.keyId(main).toUpperCase();
  for (const item of [main, ...library.subkeys(certificate, main)]) {
    const keyId = library.keyId(item);
    const names = [keyId.toUpperCase(), ...(lint.code === Verdict.ok ? [] : [mainId])];
    const about = lines.find(
      (line) => KEY_IS_UNUSABLE.test(line) && names.some((name) => line.includes(name)),
    );
    const unusable = about === undefined ? null : explain(about);
    const algorithm = library.publicKeyAlgorithm(item);
    yield { item, keyId, algorithm, fingerprint, signer, unusable };
  }
}

export const ARMORED_KEY = '-----BEGIN PGP PUBLIC KEY BLOCK-----';
