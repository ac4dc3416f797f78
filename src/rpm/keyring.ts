/**
 * OpenPGP public keys that may sign packages. The library that reads them takes 50 ms to load, and
 * then a millisecond a package: what it says of RSA keys can be had as plain data, which check as well.
 */
import type { Key } from 'openpgp';
import { KilnError } from '../errors.ts';
import { ARMORED_KEY } from './armored-key.ts';
import { type RsaKey, rsaKeyOf } from './rsa-signature.ts';
import type { SignaturePacket } from './signature-packet.ts';

type OpenPgp = typeof import('openpgp');
type KeyPart = ReturnType<Key['getKeys']>[number];

/** A key, or a subkey of one, that made a signature by what that says. */
export interface KeyMatch {
  /** The first user id of the key. */
  readonly signer: string | null;
  /** Null for keys of other kinds. */
  readonly rsa: RsaKey | null;
  /** Why the key must not be used for what was signed at a time: revoked, expired, a subkey nobody vouches for. */
  whyInvalid(signedAt: Date): Promise<string | undefined>;
  /** For what is no version 3 or 4 signature by RSA; undefined in a ring that has no such keys. */
  readonly library: { readonly openpgp: OpenPgp; readonly key: Key } | undefined;
}

/** What a signature says of its key. */
export type Issuer = Pick<SignaturePacket, 'fingerprint' | 'keyId'>;

export interface Keyring {
  /** The key a signature names: by fingerprint where it gives one, else by key id. */
  find(issuer: Issuer): KeyMatch | undefined;
}

/** From which second on (since 1970) something, or nothing, keeps a key from being used. */
interface Period {
  readonly from: number;
  readonly reason: string | null;
}

/** A key, or a subkey of one, as plain data. */
export interface TrustedKey {
  /** Lower-case hex, as {@link fingerprint}. */
  readonly keyId: string;
  readonly fingerprint: string;
  readonly signer: string | null;
  readonly rsa: RsaKey;
  /** Each until the next, in ascending order. */
  readonly periods: readonly Period[];
}

/** A ring of {@link TrustedKey}s, for which no library is needed. */
export class TrustedKeyring implements Keyring {
  readonly #keys: readonly TrustedKey[];

  constructor(keys: readonly TrustedKey[]) {
    this.#keys = keys;
  }

  find({ fingerprint, keyId }: Issuer): KeyMatch | undefined {
    const found = this.#keys.find((key) =>
      fingerprint === null ? key.keyId === keyId : key.fingerprint === fingerprint,
    );
    if (found === undefined) return undefined;
    const { signer, rsa, periods } = found;
    return {
      signer,
      rsa,
      library: undefined,
      whyInvalid: async (signedAt) => {
        const period = periods.findLast(({ from }) => from * 1000 <= signedAt.getTime());
        return period === undefined ? 'it is not valid yet' : (period.reason ?? undefined);
      },
    };
  }
}

/** A match in a ring of the library's. */
export type LibraryMatch = KeyMatch & { readonly library: NonNullable<KeyMatch['library']> };

/** Keys as the library knows them, for every kind of signature it knows. */
export class LibraryKeyring implements Keyring {
  /** Kept for later: a confined child cannot load it any more when it needs it. */
  readonly openpgp: OpenPgp;
  readonly #keys: readonly Key[];

  constructor(openpgp: OpenPgp, keys: readonly Key[]) {
    this.openpgp = openpgp;
    this.#keys = keys;
  }

  find({ fingerprint, keyId }: Issuer): LibraryMatch | undefined {
    for (const key of this.#keys) {
      for (const part of key.getKeys()) {
        const same =
          fingerprint === null
            ? part.getKeyID().toHex() === keyId
            : part.getFingerprint() === fingerprint;
        if (same) return this.#match(key, part);
      }
    }
    return undefined;
  }

  #match(key: Key, part: KeyPart): LibraryMatch {
    return {
      signer: key.getUserIDs()[0] ?? null,
      rsa: rsaKeyOf(part.keyPacket),
      library: { openpgp: this.openpgp, key },
      whyInvalid: (signedAt) => whyInvalid(key, part, signedAt),
    };
  }

  /** The whole ring as plain data, or undefined if any of its keys can only be used with the library. */
  async toTrustedKeys(): Promise<TrustedKey[] | undefined> {
    const described: TrustedKey[] = [];
    for (const key of this.#keys) {
      const parts = key.getKeys().map((part) => ({ part, periods: [] as Period[] }));
      const times = turningPoints(this.openpgp, key);
      if (times.length > MAX_TURNING_POINTS) return undefined;
      // In the order of time: the library takes what it once saw revoked for revoked ever after.
      for (const from of times) {
        for (const { part, periods } of parts) {
          const reason = (await whyInvalid(key, part, new Date(from * 1000))) ?? null;
          if (periods.at(-1)?.reason !== reason) periods.push({ from, reason });
        }
      }
      for (const { part, periods } of parts) {
        const { signer, rsa } = this.#match(key, part);
        if (rsa === null) return undefined;
        const fingerprint = part.getFingerprint();
        described.push({ keyId: part.getKeyID().toHex(), fingerprint, signer, rsa, periods });
      }
    }
    return described;
  }
}

/** A key has a few self-signatures; whoever has more of them is asked by the library, each time. */
const MAX_TURNING_POINTS = 1000;

/** Nothing is signed later: OpenPGP's times have 32 bits. */
const LATEST = 2 ** 32;

/**
 * Seconds since 1970 at which the library may change its mind about a key: when any of its packets
 * was made, and when a signature or a key expires by what any of them says.
 */
function turningPoints(openpgp: OpenPgp, key: Key): number[] {
  const times = new Set([0]);
  // Whole seconds, as OpenPGP's times are.
  const add = (time: Date | null, later: number | null = 0) => {
    if (time === null || later === null) return;
    const second = time.getTime() / 1000 + later;
    if (second <= LATEST) times.add(second);
  };
  const parts = key.getKeys();
  const created = parts.map(({ keyPacket }) => keyPacket.created);
  for (const time of created) add(time);
  for (const packet of key.toPacketList()) {
    if (!(packet instanceof openpgp.SignaturePacket)) continue;
    // What others say of the key is not asked for.
    if (!parts.some((part) => packet.issuerKeyID.equals(part.getKeyID()))) continue;
    for (const signature of [packet, packet.embeddedSignature ?? []].flat()) {
      add(signature.created);
      add(signature.created, signature.signatureExpirationTime);
      for (const time of created) add(time, signature.keyExpirationTime);
    }
  }
  return [...times].sort((a, b) => a - b);
}

async function whyInvalid(key: Key, part: KeyPart, signedAt: Date): Promise<string | undefined> {
  try {
    const found = await key.getSigningKey(part.getKeyID(), signedAt);
    const same = found.getFingerprint() === part.getFingerprint();
    return same ? undefined : 'another part of the key has the same id';
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * Reads armored keys; a text may hold several blocks, as the key files of distributions do.
 * Keys of a kind that openpgp does not know are left out: what they sign is `nokey`.
 * @throws KilnError E_KEYRING for a text without any armored block, or one that is broken.
 */
export async function loadKeyring(texts: readonly string[]): Promise<LibraryKeyring> {
  const openpgp = await import('openpgp');
  const keys: Key[] = [];
  for (const text of texts) {
    const blocks = text.split(ARMORED_KEY).slice(1);
    if (blocks.length === 0) {
      throw new KilnError('E_KEYRING', 'a keyring holds no armored public key', {
        hint: `it must hold text that begins with ${ARMORED_KEY}`,
      });
    }
    for (const block of blocks) {
      try {
        keys.push(...(await openpgp.readKeys({ armoredKeys: ARMORED_KEY + block })));
      } catch (cause) {
        if (cause instanceof Error && cause.message.includes('No key packet found')) continue;
        throw new KilnError('E_KEYRING', 'a key of the keyring is broken', {
          hint: 'export it anew: `gpg --armor --export KEY`',
          cause,
        });
      }
    }
  }
  return new LibraryKeyring(openpgp, keys);
}
