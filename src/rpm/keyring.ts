/**
 * OpenPGP public keys that may sign packages. `openpgp` takes 50 ms to load: it is loaded with the
 * first keyring, and nothing is loaded without one.
 */
import type { Key } from 'openpgp';
import { KilnError } from '../errors.ts';
import { ARMORED_KEY } from './armored-key.ts';
import type { SignaturePacket } from './signature-packet.ts';

/** A key of the ring and the part of it (the key itself or a subkey) that made a signature. */
export interface KeyMatch {
  readonly key: Key;
  readonly part: ReturnType<Key['getKeys']>[number];
}

export class Keyring {
  /** Kept for later: a confined child cannot load it any more when it needs it. */
  readonly openpgp: typeof import('openpgp');
  readonly #keys: readonly Key[];

  constructor(openpgp: typeof import('openpgp'), keys: readonly Key[]) {
    this.openpgp = openpgp;
    this.#keys = keys;
  }

  /** The key a signature names: by fingerprint where it gives one, else by key id. */
  find({
    fingerprint,
    keyId,
  }: Pick<SignaturePacket, 'fingerprint' | 'keyId'>): KeyMatch | undefined {
    for (const key of this.#keys) {
      for (const part of key.getKeys()) {
        const same =
          fingerprint === null
            ? part.getKeyID().toHex() === keyId
            : part.getFingerprint() === fingerprint;
        if (same) return { key, part };
      }
    }
    return undefined;
  }
}

/**
 * Reads armored keys; a text may hold several blocks, as the key files of distributions do.
 * Keys of a kind that openpgp does not know are left out: what they sign is `nokey`.
 * @throws KilnError E_KEYRING for a text without any armored block, or one that is broken.
 */
export async function loadKeyring(texts: readonly string[]): Promise<Keyring> {
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
  return new Keyring(openpgp, keys);
}
