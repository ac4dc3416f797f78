/** The OpenPGP secret key that signs packages: read and tried before anything is built. */
import type { PrivateKey } from 'openpgp';
import { KilnError, reasonOf } from '../../../errors.ts';
import type { HeldPath } from '../../../host/files/held.ts';
import { readUserFile } from '../../../host/files/user-file.ts';
import { ELEMENT_SIZE, ENTRY_SIZE, INTRO_SIZE, MAGIC, type RawEntry, Type } from '../header.ts';
import { SigTag } from '../tags.ts';
import { readOuterPacket } from './signature-packet.ts';

export interface SigningKeyFiles {
  /** Path of an armored secret key, as `gpg --armor --export-secret-keys` writes it. */
  readonly key: HeldPath;
  readonly passphraseFile?: HeldPath;
}

export interface PackageSigner {
  readonly fingerprint: string;
  sign(bytes: Buffer): Promise<HeaderSignature>;
}

/** More than any key with all its signatures has, bytes. */
const MAX_KEY = 4 * 1024 * 1024;

/**
 * Reads a secret key and signs something with it: who gets a signer can sign.
 * @param passphrase Used where `files` names no file with one.
 * @throws KilnError E_SIGN_KEY
 */
export async function openSigningKey(
  files: SigningKeyFiles,
  passphrase: string | undefined,
): Promise<PackageSigner> {
  const armored = await readText(files.key, 'the signing key');
  const secret =
    files.passphraseFile === undefined
      ? passphrase
      : (await readText(files.passphraseFile, 'the passphrase file')).replace(/\r?\n.*$/s, '');
  // Loading takes 50 ms: only signing pays it.
  const openpgp = await import('openpgp');
  const key = await unlock(openpgp, await readKey(openpgp, files.key, armored), files.key, secret);
  // A signature is for the bytes alone: no salt, which older rpms would have to skip.
  const config = { nonDeterministicSignaturesViaNotation: false };
  const sign = async (bytes: Buffer): Promise<HeaderSignature> => {
    const signed = await openpgp.sign({
      message: await openpgp.createMessage({ binary: bytes }),
      signingKeys: key,
      detached: true,
      format: 'binary',
      config,
    });
    const packet = Buffer.from(signed as Uint8Array);
    const outer = readOuterPacket(packet);
    if (outer === undefined) throw new Error('openpgp made no signature packet');
    return { bytes: packet, version: outer.version, keyAlgorithm: outer.keyAlgorithm };
  };
  try {
    const part = await key.getSigningKey();
    await sign(Buffer.alloc(0));
    return { fingerprint: part.getFingerprint(), sign };
  } catch (cause) {
    throw new KilnError('E_SIGN_KEY', `${files.key} cannot sign: ${reasonOf(cause)}`, {
      cause,
      hint: 'it may have expired or be revoked, be too short (RSA: 2048 bits), or not be for signing',
    });
  }
}

async function readText(path: string, what: string): Promise<string> {
  try {
    return readUserFile(path, MAX_KEY, 'anything').toString('utf8');
  } catch (cause) {
    throw new KilnError('E_SIGN_KEY', `${what} ${path} cannot be read: ${reasonOf(cause)}`, {
      cause,
      hint: 'give the path of a file that whoever runs kiln may read',
    });
  }
}

type Library = typeof import('openpgp');

async function readKey(openpgp: Library, path: string, armoredKeys: string): Promise<PrivateKey> {
  const hint = '`gpg --armor --export-secret-keys KEYID` writes one';
  const fail = (why: string, cause?: unknown) =>
    new KilnError('E_SIGN_KEY', `${path} ${why}`, { cause, hint });
  let keys: PrivateKey[];
  try {
    keys = await openpgp.readPrivateKeys({ armoredKeys });
  } catch (cause) {
    throw fail('is not an armored OpenPGP secret key', cause);
  }
  const [key, ...more] = keys;
  if (key === undefined) throw fail('holds no OpenPGP secret key');
  if (more.length > 0) throw fail(`holds ${keys.length} secret keys, not one`);
  return key;
}

async function unlock(
  openpgp: Library,
  privateKey: PrivateKey,
  path: string,
  passphrase: string | undefined,
): Promise<PrivateKey> {
  if (privateKey.isDecrypted()) return privateKey;
  const hint = 'KILN_SIGN_PASSPHRASE, or a file named with --sign-passphrase-file, must hold it';
  if (passphrase === undefined || passphrase === '') {
    throw new KilnError('E_SIGN_KEY', `${path} is locked with a passphrase`, { hint });
  }
  try {
    return await openpgp.decryptKey({ privateKey, passphrase });
  } catch (cause) {
    throw new KilnError('E_SIGN_KEY', `the passphrase does not open ${path}`, { cause, hint });
  }
}

/*
 * Writes a signature header. Source: rpm's docs/manual/format_header.md, format_v4.md and
 * format_v6.md; lib/header.cc (headerUnload) for the order of the store.
 */

/** The main header, and with it everything before it, begins at a multiple of this. */
const ALIGNMENT = 8;

/** Tags with somebody's signature: what they vouch for is not what the new key's owner does. */
const SIGNATURES: ReadonlySet<number> = new Set([
  ...[SigTag.dsaHeader, SigTag.rsaHeader, SigTag.openpgp],
  ...[SigTag.pgp, SigTag.gpg],
]);

/** OpenPGP's number of RSA (RFC 9580, 9.1). */
const RSA = 1;

interface HeaderSignature {
  readonly bytes: Buffer;
  readonly version: number;
  readonly keyAlgorithm: number;
}

/**
 * The entries of a signed package: those it had, with `signature` in place of all other signatures.
 * @param format The package's: rpm 4 knows one signature per kind of key, its tag is the kind; since
 * format 6 there is one tag for all, and version 6 signatures have no other.
 */
export function withSignature(
  entries: readonly RawEntry[],
  format: number,
  { bytes, version, keyAlgorithm }: HeaderSignature,
): RawEntry[] {
  const others = entries.filter(({ tag }) => tag !== SigTag.region && !SIGNATURES.has(tag));
  if (format >= 6 || version >= 6) {
    const data = Buffer.from(`${bytes.toString('base64')}\0`);
    return [...others, { tag: SigTag.openpgp, type: Type.array, count: 1, data }];
  }
  const tag = keyAlgorithm === RSA ? SigTag.rsaHeader : SigTag.dsaHeader;
  return [...others, { tag, type: Type.bin, count: bytes.length, data: bytes }];
}

export function encodeSignatureHeader(entries: readonly RawEntry[]): Buffer {
  const sorted = [...entries].sort((a, b) => a.tag - b.tag);
  const count = sorted.length + 1;
  const index: Buffer[] = [];
  const store: Buffer[] = [];
  let size = 0;
  for (const { tag, type, count: elements, data } of sorted) {
    const gap = -size & (Math.max(ELEMENT_SIZE[type] ?? 1, 1) - 1);
    store.push(Buffer.alloc(gap), data);
    index.push(indexEntry(tag, type, size + gap, elements));
    size += gap + data.length;
  }
  // The trailer is an entry whose offset leads back over the index.
  store.push(indexEntry(SigTag.region, Type.bin, -count * ENTRY_SIZE, ENTRY_SIZE));
  const region = indexEntry(SigTag.region, Type.bin, size, ENTRY_SIZE);
  size += ENTRY_SIZE;
  const intro = Buffer.alloc(INTRO_SIZE);
  MAGIC.copy(intro);
  intro.writeUInt32BE(count, 8);
  intro.writeUInt32BE(size, 12);
  return Buffer.concat([intro, region, ...index, ...store, Buffer.alloc(-size & (ALIGNMENT - 1))]);
}

function indexEntry(tag: number, type: number, offset: number, count: number): Buffer {
  const bytes = Buffer.alloc(ENTRY_SIZE);
  bytes.writeUInt32BE(tag, 0);
  bytes.writeUInt32BE(type, 4);
  bytes.writeInt32BE(offset, 8);
  bytes.writeUInt32BE(count, 12);
  return bytes;
}
