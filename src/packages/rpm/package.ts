/**
 * What kiln knows of one .rpm file: plain JSON, which crosses the pipe from the confined child that read the file.
 * Strings are decoded as UTF-8; other bytes become lone surrogates (see filename.ts), so that paths survive unchanged.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import type { dependencyTags, fileFlags, scriptletTags } from './tags.ts';

export interface RpmEvr {
  readonly epoch: number | null;
  readonly version: string;
  readonly release: string;
}

export interface RpmDependency {
  /** A name, a path, a rich dependency `(a or b)`, or a namespaced one such as `rpmlib(X)`. */
  readonly name: string;
  readonly operator: '' | '<' | '<=' | '=' | '>=' | '>' | '<>' | '<>=';
  readonly version: string;
  /** Raw RPMSENSE_* bits (rpm/rpmds.h); the useful ones are named in dependency.ts. */
  readonly flags: number;
}

export type RpmDependencyKind = keyof typeof dependencyTags;

export type RpmScriptletKind = keyof typeof scriptletTags;

export interface RpmScript {
  readonly interpreter: readonly string[];
  readonly lua: boolean;
  /** `''` for `%post -p /sbin/ldconfig` and the like: run the interpreter alone. */
  readonly body: string;
  /** `%post -e`: macros are expanded at install time. */
  readonly expand: boolean;
  /** `%post -q`: header query formats are expanded at install time. */
  readonly queryFormat: boolean;
  /** `RPMSCRIPT_FLAG_CRITICAL`: a failure fails the transaction. */
  readonly critical: boolean;
}

export interface RpmScriptlet extends RpmScript {
  readonly kind: RpmScriptletKind;
}

export interface RpmTrigger extends RpmScript {
  readonly kind: 'triggerprein' | 'triggerin' | 'triggerun' | 'triggerpostun';
  readonly conditions: readonly RpmDependency[];
}

export interface RpmFileTrigger extends RpmScript {
  readonly kind: 'filetriggerin' | 'filetriggerun' | 'filetriggerpostun';
  readonly scope: 'package' | 'transaction';
  /** Higher runs first; rpm's default is 1000000. */
  readonly priority: number;
  readonly prefixes: readonly string[];
}

export type RpmFileFlag = keyof typeof fileFlags;

export type RpmFileType = 'file' | 'directory' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket';

export interface RpmFile {
  /** Absolute and normal (`/usr/bin/gcc`); in a source package a bare name. */
  readonly path: string;
  readonly type: RpmFileType;
  /** Full st_mode: type bits, set-id bits and permissions. */
  readonly mode: number;
  readonly owner: string;
  readonly group: string;
  /** Bytes; of a symbolic link those of its target; of a directory whatever the packager's file system said. */
  readonly size: number;
  readonly mtime: number;
  /** Lower-case hex; null for what is no regular file, and for ghosts. */
  readonly digest: string | null;
  readonly linkTarget: string | null;
  readonly flags: readonly RpmFileFlag[];
  /** RPMVERIFY_* bits to check (`rpm -V`); all ones by default. */
  readonly verifyFlags: number;
  /** As cap_to_text(3) writes it (`cap_net_raw=ep`); null without, `'='` for the empty set. */
  readonly caps: string | null;
  /** Files with the same (device, inode) and nlink > 1 are hard links of each other. */
  readonly device: number;
  readonly inode: number;
  readonly nlink: number;
  readonly rdev: number;
  readonly lang: string;
  readonly imaSignature: string | null;
}

export const RPM_COMPRESSORS = ['none', 'gzip', 'bzip2', 'xz', 'lzma', 'zstd'] as const;
export type RpmCompressor = (typeof RPM_COMPRESSORS)[number];

export interface RpmPayload {
  readonly format: string;
  readonly compressor: RpmCompressor;
  /** Compression level and options as rpmbuild was told, e.g. `19`, `3T0`. */
  readonly compressorFlags: string;
  readonly start: number;
  readonly size: number;
  readonly archiveSize: number | null;
  /** Entries are the stripped `07070X` form (RPMTAG_LONGFILESIZES or rpmlib(LargeFiles)). */
  readonly stripped: boolean;
}

/** `missing`: the header has none of this kind; `unsupported`: an algorithm this Node has not. */
type RpmDigestStatus = 'ok' | 'bad' | 'missing' | 'unsupported' | 'unchecked';

export interface RpmDigest {
  readonly scope: 'header' | 'payload' | 'header+payload' | 'archive';
  readonly algorithm: string;
  readonly expected: string;
  readonly actual: string | null;
  readonly status: RpmDigestStatus;
}

/**
 * As rpm judges: `nokey`: no key of the keyring made it; `unsupported`: too weak for rpm, or unknown to it; `bad`: not
 * of this package, malformed, from the future, or of a key that was revoked or had expired.
 */
type RpmSignatureStatus = 'ok' | 'bad' | 'nokey' | 'unsupported' | 'unchecked';

export interface RpmSignature {
  readonly scope: 'header' | 'header+payload';
  readonly algorithm: string;
  readonly version: number;
  /** 16 lower-case hex digits, or the whole fingerprint for version 6; `''` where it cannot be read. */
  readonly keyId: string;
  /** When it says it was made, seconds since 1970, or null. */
  readonly created: number | null;
  readonly status: RpmSignatureStatus;
  readonly reason: string | null;
  readonly signer: string | null;
  /** Of that key, or of the main key it belongs to: lower-case hex. */
  readonly fingerprint: string | null;
}

export interface RpmIdentity extends RpmEvr {
  readonly name: string;
  readonly arch: string;
  readonly os: string;
  readonly isSource: boolean;
  readonly summary: string;
  readonly description: string;
  readonly license: string;
  readonly group: string;
  readonly url: string;
  readonly vendor: string;
  readonly packager: string;
  readonly sourceRpm: string | null;
  readonly buildHost: string;
  readonly buildTime: number | null;
  readonly formatVersion: 3 | 4 | 6;
  readonly installedSize: number;
  readonly packageSize: number;
  readonly headerRange: { readonly start: number; readonly end: number };
  readonly payload: RpmPayload;
  readonly digests: readonly RpmDigest[];
  readonly signatures: readonly RpmSignature[];
}

export interface RpmChangelogEntry {
  readonly author: string;
  readonly date: number;
  readonly text: string;
}

export interface RpmPackage extends RpmIdentity {
  readonly dependencies: Readonly<Record<RpmDependencyKind, readonly RpmDependency[]>>;
  readonly scriptlets: readonly RpmScriptlet[];
  readonly triggers: readonly RpmTrigger[];
  readonly fileTriggers: readonly RpmFileTrigger[];
  readonly changelog: readonly RpmChangelogEntry[];
  readonly fileDigestAlgorithm: string;
  readonly files: readonly RpmFile[];
}

/**
 * What is wrong with an .rpm file:
 * - E_RPM_FORMAT: it is no RPM package, is cut off, or breaks the format;
 * - E_RPM_DIGEST: bytes differ from the digest the package gives for them;
 * - E_RPM_SIGNATURE: it is not signed, or not by a key that is trusted;
 * - E_RPM_HOSTILE: whole, but unpacking it would do harm;
 * - E_RPM_UNSUPPORTED: valid, but nothing kiln can read.
 */
type RpmErrorCode =
  | 'E_RPM_FORMAT'
  | 'E_RPM_DIGEST'
  | 'E_RPM_SIGNATURE'
  | 'E_RPM_HOSTILE'
  | 'E_RPM_UNSUPPORTED';

export function rpmError(
  code: RpmErrorCode,
  message: string,
  options: { readonly hint?: string; readonly cause?: unknown } = {},
): KilnError {
  return new KilnError(code, message, options);
}

/** Descriptors handed to one child at most: far below any limit on open files. */
export const MAX_FDS = 500;

const HINT = 'give the path of an RPM package';

export function openFile(file: string): number {
  let fd: number;
  try {
    // NONBLOCK: a fifo must not stop us.
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw rpmError('E_RPM_FORMAT', `${file}: cannot be read`, { cause, hint: HINT });
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw rpmError('E_RPM_FORMAT', `${file}: is not a regular file`, { hint: HINT });
}
