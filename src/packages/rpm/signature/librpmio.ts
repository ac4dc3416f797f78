/**
 * rpm's own OpenPGP calls (librpmio's rpmpgp.h and rpmcrypto.h), so that kiln trusts what rpm trusts: the rules
 * about keys, times and algorithms, and the system's crypto policy, are the library's. A wrong pointer ends the
 * process, so this module is loaded in confined children only.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import koffi from 'koffi';
import { KilnError } from '../../../errors.ts';
import { libc, type Pointer, typed } from '../../../host/calls/c-library.ts';
import { attempt } from '../../../host/calls/libc.ts';
import { ownEnvironment } from '../../../host/process/own-process.ts';
import { packageRoot } from '../../../host/state/package-root.ts';

/** Of rpm 4.19 and newer: older ones cannot say why they refuse a key or a signature. */
const LIBRPMIO = 'librpmio.so.10';

/** What rpm does its cryptography with. It merges copies of a key; rpm's own call for that came after 4.20. */
const SEQUOIA = 'librpm_sequoia.so.1';

/** Where the library looks for the system's crypto policy (rpm-sequoia's README). */
const SYSTEM_POLICIES = ['/etc', '/usr/share'].map(
  (folder) => `${folder}/crypto-policies/back-ends/rpm-sequoia.config`,
);

const POLICY_VARIABLE = 'RPM_SEQUOIA_CRYPTO_POLICY';

/** rpmRC of rpmtypes.h. */
export const Verdict = { ok: 0, fail: 2, notTrusted: 3 } as const;

/** pgpTag of rpmpgp.h. */
export const Tag = { signature: 2, publicKey: 6 } as const;

/** PGPARMOR_PUBKEY and PGPARMOR_SIGNATURE of rpmpgp.h. */
export const Armor = { publicKey: 2, signature: 3 } as const;

/** PGPVAL_PUBKEYALGO and PGPVAL_HASHALGO of rpmpgp.h. */
const PUBKEY_ALGORITHM = 6;
const HASH_ALGORITHM = 9;

const KEY_ID_BYTES = 8;

export interface Explained {
  readonly code: number;
  readonly lints: string | null;
}

export type Librpmio = ReturnType<typeof bind>;
let loaded: Librpmio | undefined;

/**
 * Loads the library and reads the system's crypto policy, or else kiln's, once. A confined task's `prepare` calls it,
 * while files can still be opened.
 * @throws KilnError E_LIBRPM
 */
export function loadLibrpmio(): Librpmio {
  if (loaded !== undefined) return loaded;
  let library: ReturnType<typeof bind>;
  try {
    library = bind();
  } catch (cause) {
    throw new KilnError('E_LIBRPM', `${LIBRPMIO} cannot be used: signatures cannot be checked`, {
      cause,
      hint: 'install it: apt-get install librpmio10 (Debian, Ubuntu) or dnf install rpm-libs (Fedora); rpm must be 4.19 or newer',
    });
  }
  if (!SYSTEM_POLICIES.some((path) => existsSync(path))) {
    ownEnvironment[POLICY_VARIABLE] = join(packageRoot(), 'policy/rpm-sequoia.config');
  }
  if (library.initialize() !== 0) {
    throw new KilnError('E_LIBRPM', "rpm's cryptography cannot be initialized", {
      hint: `the crypto policy may be broken: ${SYSTEM_POLICIES[0]}, or ${POLICY_VARIABLE}`,
    });
  }
  loaded = library;
  return library;
}

function bind() {
  // Deep: Node exports an OpenSSL and a zstd of its own, which would answer the library's calls.
  const library = koffi.load(LIBRPMIO, { deep: true });
  const call = typed(library, {
    initCrypto: 'int rpmInitCrypto()',
    parseArmor: 'int pgpParsePkts(const char *armor, void *packets, void *length)',
    certLength: 'int pgpPubKeyCertLen(const void *packets, size_t size, void *length)',
    lint: 'int pgpPubKeyLint(const void *packets, size_t size, void *text)',
    fingerprint:
      'int pgpPubkeyFingerprint(const void *packets, size_t size, void *bytes, void *length)',
    parse: 'int pgpPrtParams2(const void *packets, size_t size, uint tag, void *made, void *lints)',
    subkeys:
      'int pgpPrtParamsSubkeys(const void *packets, size_t size, uintptr_t main, void *made, void *count)',
    signId: 'uintptr_t pgpDigParamsSignID(uintptr_t item)',
    userId: 'const char *pgpDigParamsUserID(uintptr_t item)',
    algorithm: 'uint pgpDigParamsAlgo(uintptr_t item, uint kind)',
    version: 'int pgpDigParamsVersion(uintptr_t item)',
    created: 'uint32_t pgpDigParamsCreationTime(uintptr_t item)',
    signatureType: 'int pgpSignatureType(uintptr_t item)',
    free: 'uintptr_t pgpDigParamsFree(uintptr_t item)',
    digestInit: 'uintptr_t rpmDigestInit(int algorithm, uint flags)',
    digestUpdate: 'int rpmDigestUpdate(uintptr_t digest, const void *bytes, size_t size)',
    digestFinal: 'int rpmDigestFinal(uintptr_t digest, void *bytes, void *length, int text)',
    verify:
      'int pgpVerifySignature2(uintptr_t key, uintptr_t signature, uintptr_t digest, void *lints)',
  });
  const merge = bindMerge(library);
  const { release } = typed(libc, { release: 'void free(uintptr_t memory)' });

  /** Copies memory that the library allocated, and frees it. Of nothing, Rust gives no address to free. */
  const takeBytes = (from: Pointer | undefined, length: number): Buffer => {
    if (from === undefined || from === 0n || length === 0) return Buffer.alloc(0);
    const bytes = Buffer.from(Buffer.from(koffi.view(from, length)));
    release(from);
    return bytes;
  };
  const explained = (act: (text: BigUint64Array) => number): Explained => {
    const text = new BigUint64Array(1);
    const code = act(text);
    const [from = 0n] = text;
    if (from === 0n) return { code, lints: null };
    const lints: string = koffi.decode(from, 'char', -1);
    release(from);
    return { code, lints };
  };

  return {
    initialize: call.initCrypto,
    dearmor(armor: string): { readonly kind: number; readonly bytes: Buffer } | undefined {
      const from = new BigUint64Array(1);
      const length = new BigUint64Array(1);
      const kind = call.parseArmor(armor, from, length);
      if (kind <= 0) return undefined;
      return { kind, bytes: takeBytes(from[0], Number(length[0])) };
    },
    certificateLength(packets: Buffer): number | undefined {
      const length = new BigUint64Array(1);
      const code = call.certLength(packets, packets.length, length);
      const bytes = Number(length[0]);
      return code === 0 && bytes > 0 && bytes <= packets.length ? bytes : undefined;
    },
    /** Two copies of one certificate as one; undefined where this rpm cannot. */
    merge(one: Buffer, other: Buffer): Buffer | undefined {
      const from = new BigUint64Array(1);
      const length = new BigUint64Array(1);
      const code = merge?.(one, one.length, other, other.length, from, length, 0);
      return code === 0 ? takeBytes(from[0], Number(length[0])) : undefined;
    },
    lint: (certificate: Buffer): Explained =>
      explained((text) => call.lint(certificate, certificate.length, text)),
    fingerprint(certificate: Buffer): string {
      const from = new BigUint64Array(1);
      const length = new BigUint64Array(1);
      const code = call.fingerprint(certificate, certificate.length, from, length);
      return code === 0 ? takeBytes(from[0], Number(length[0])).toString('hex') : '';
    },
    /** Reads a key or a signature; `item` is null unless the code is 0, and is to be freed. */
    parse(packets: Buffer, tag: number): Explained & { readonly item: Pointer | null } {
      const made = new BigUint64Array(1);
      const result = explained((text) => call.parse(packets, packets.length, tag, made, text));
      const [item = 0n] = made;
      return { ...result, item: result.code === 0 && item !== 0n ? item : null };
    },
    /** The subkeys of a certificate; they stay allocated. */
    subkeys(certificate: Buffer, main: Pointer): Pointer[] {
      const made = new BigUint64Array(1);
      const count = new Int32Array(1);
      const code = call.subkeys(certificate, certificate.length, main, made, count);
      if (code !== 0 || count[0] === 0) return [];
      const bytes = takeBytes(made[0], count[0]! * BigUint64Array.BYTES_PER_ELEMENT);
      return Array.from({ length: count[0]! }, (_, index) =>
        bytes.readBigUInt64LE(index * BigUint64Array.BYTES_PER_ELEMENT),
      );
    },
    free: call.free,
    keyId(item: Pointer): string {
      const from = BigInt(call.signId(item));
      return from === 0n ? '' : Buffer.from(koffi.view(from, KEY_ID_BYTES)).toString('hex');
    },
    userId: call.userId,
    publicKeyAlgorithm: (item: Pointer) => call.algorithm(item, PUBKEY_ALGORITHM),
    hashAlgorithm: (item: Pointer) => call.algorithm(item, HASH_ALGORITHM),
    version: call.version,
    /** Seconds since 1970; 0 where a signature does not say. */
    created: call.created,
    /** RFC 9580, 5.2.1; -1 for what is no signature. */
    signatureType: call.signatureType,
    startDigest(algorithm: number): Pointer | undefined {
      const digest = BigInt(call.digestInit(algorithm, 0));
      return digest === 0n ? undefined : digest;
    },
    updateDigest(digest: Pointer, bytes: Buffer): void {
      call.digestUpdate(digest, bytes, bytes.length);
    },
    endDigest(digest: Pointer): void {
      call.digestFinal(digest, null, null, 0);
    },
    verify: (key: Pointer, signature: Pointer, digest: Pointer): Explained =>
      explained((text) => call.verify(key, signature, digest, text)),
  };
}

type Merge = (
  one: Buffer,
  oneLength: number,
  other: Buffer,
  otherLength: number,
  made: BigUint64Array,
  length: BigUint64Array,
  flags: number,
) => number;

function bindMerge(library: ReturnType<typeof koffi.load>): Merge | undefined {
  const declared = (name: string) =>
    `int ${name}(const void *one, size_t size, const void *other, size_t length, void *made, void *count, int flags)`;
  return (
    attempt(() => library.func(declared('pgpPubkeyMerge')) as Merge) ??
    attempt(() => koffi.load(SEQUOIA, { deep: true }).func(declared('_pgpPubkeyMerge')) as Merge)
  );
}
