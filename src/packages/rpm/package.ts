/**
 * What kiln knows of one .rpm file. Everything here is plain JSON: it crosses the pipe from the
 * confined child that read the file.
 *
 * Strings are what the header holds, decoded as UTF-8; bytes that are no UTF-8 become lone
 * surrogates U+DC80..U+DCFF (see filename.ts), so that paths survive unchanged.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { rpmError } from './errors.ts';
import type { dependencyTags, fileFlags, scriptletTags } from './tags.ts';

/** The parts of a version: `epoch` is null where the package gives none (not the same as 0 to rpm). */
export interface RpmEvr {
  readonly epoch: number | null;
  readonly version: string;
  readonly release: string;
}

/** One capability with its condition, as in the *NAME, *FLAGS and *VERSION tags. */
export interface RpmDependency {
  /** A name, a path, a rich dependency `(a or b)`, or a namespaced one such as `rpmlib(X)`. */
  readonly name: string;
  /** `''` without a version. */
  readonly operator: '' | '<' | '<=' | '=' | '>=' | '>' | '<>' | '<>=';
  /** `[epoch:]version[-release]`, or `''`. */
  readonly version: string;
  /** Raw RPMSENSE_* bits (rpm/rpmds.h); the useful ones are named in dependency.ts. */
  readonly flags: number;
}

export type RpmDependencyKind = keyof typeof dependencyTags;

export type RpmScriptletKind = keyof typeof scriptletTags;

/** How to run a script: what scriptlets and triggers have in common. */
export interface RpmScript {
  /** Program and its arguments, e.g. `['/bin/sh']`; `['<lua>']` for the embedded interpreter. */
  readonly interpreter: readonly string[];
  /** Interpreter is rpm's embedded Lua: only an rpm can run it. */
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

/** `%triggerin -- foo > 1` and so on; runs when a package that meets a condition comes or goes. */
export interface RpmTrigger extends RpmScript {
  readonly kind: 'triggerprein' | 'triggerin' | 'triggerun' | 'triggerpostun';
  readonly conditions: readonly RpmDependency[];
}

/** `%filetriggerin`, `%transfiletriggerin` and so on; runs when a path below a prefix changes. */
export interface RpmFileTrigger extends RpmScript {
  readonly kind: 'filetriggerin' | 'filetriggerun' | 'filetriggerpostun';
  /** Once a package, or once a transaction (`%transfiletrigger…`). */
  readonly scope: 'package' | 'transaction';
  /** Higher runs first; rpm's default is 1000000. */
  readonly priority: number;
  readonly prefixes: readonly string[];
}

/** RPMFILE_* of rpm/rpmfiles.h, by name. */
export type RpmFileFlag = keyof typeof fileFlags;

export type RpmFileType = 'file' | 'directory' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket';

export interface RpmFile {
  /** Absolute and normal (`/usr/bin/gcc`); in a source package a bare name. */
  readonly path: string;
  readonly type: RpmFileType;
  /** Full st_mode: type bits, set-id bits and permissions. */
  readonly mode: number;
  /** Names, not numbers: the header holds no ids. */
  readonly owner: string;
  readonly group: string;
  /** Bytes; for a symbolic link the length of its target; for a directory whatever the packager's file system said. */
  readonly size: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Lower-case hex in the algorithm `RpmPackage.fileDigestAlgorithm`; null for what is no regular file, and for ghosts. */
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
  /** Device number of a char or block device, else 0. */
  readonly rdev: number;
  /** `%lang(de)`, or `''`. */
  readonly lang: string;
  readonly imaSignature: string | null;
}

export const RPM_COMPRESSORS = ['none', 'gzip', 'bzip2', 'xz', 'lzma', 'zstd'] as const;
export type RpmCompressor = (typeof RPM_COMPRESSORS)[number];

export interface RpmPayload {
  /** Always `cpio` in what kiln reads. */
  readonly format: string;
  readonly compressor: RpmCompressor;
  /** Compression level and options as rpmbuild was told, e.g. `19`, `3T0`. */
  readonly compressorFlags: string;
  /** Offset of the compressed payload in the file, bytes. */
  readonly start: number;
  /** Compressed bytes from `start` to the end of the file. */
  readonly size: number;
  /** Bytes of the uncompressed archive as the header claims, or null. */
  readonly archiveSize: number | null;
  /** Entries are the stripped `07070X` form (RPMTAG_LONGFILESIZES or rpmlib(LargeFiles)). */
  readonly stripped: boolean;
}

/** `missing`: the header has none of this kind; `unsupported`: an algorithm this Node has not. */
type RpmDigestStatus = 'ok' | 'bad' | 'missing' | 'unsupported' | 'unchecked';

export interface RpmDigest {
  /** What is hashed. `archive`: the payload after decompression. */
  readonly scope: 'header' | 'payload' | 'header+payload' | 'archive';
  /** `md5`, `sha1`, `sha256`, `sha512`, `sha3-256`. */
  readonly algorithm: string;
  readonly expected: string;
  /** Lower-case hex, null where it was not computed. */
  readonly actual: string | null;
  readonly status: RpmDigestStatus;
}

/**
 * As rpm judges: `nokey`: no key of the keyring made it; `unsupported`: of a kind that is too weak for
 * rpm, or that it does not know; `bad`: not of this package, malformed, from the future, or of a key
 * that was revoked or had expired.
 */
type RpmSignatureStatus = 'ok' | 'bad' | 'nokey' | 'unsupported' | 'unchecked';

export interface RpmSignature {
  readonly scope: 'header' | 'header+payload';
  /** `RSA/SHA256`, `EdDSA/SHA512` …, as rpm writes it. */
  readonly algorithm: string;
  /** Version of the signature packet: 3, 4 or 6; 0 for what is no such packet. */
  readonly version: number;
  /** 16 lower-case hex digits, or the whole fingerprint for version 6; `''` where it cannot be read. */
  readonly keyId: string;
  /** When it says it was made, seconds since 1970, or null. */
  readonly created: number | null;
  readonly status: RpmSignatureStatus;
  /** Why, for anything but `ok` and `unchecked`. */
  readonly reason: string | null;
  /** The user id of the key that made it, where known. */
  readonly signer: string | null;
  /** Of that key, or of the main key it belongs to: lower-case hex. */
  readonly fingerprint: string | null;
}

/** What a package is, without what is in it. */
export interface RpmIdentity extends RpmEvr {
  readonly name: string;
  /** `src` or `nosrc` for a source package, whatever the ARCH tag says. */
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
  /** File name of the source package, or null. */
  readonly sourceRpm: string | null;
  readonly buildHost: string;
  /** Seconds since 1970, or null. */
  readonly buildTime: number | null;
  /** RPM format: 3, 4 or 6. */
  readonly formatVersion: 3 | 4 | 6;
  /** Sum of the file sizes, bytes, as the header says. */
  readonly installedSize: number;
  /** Bytes of the whole .rpm file. */
  readonly packageSize: number;
  /** Byte range of the main header in the file (createrepo's `header-range`). */
  readonly headerRange: { readonly start: number; readonly end: number };
  readonly payload: RpmPayload;
  readonly digests: readonly RpmDigest[];
  readonly signatures: readonly RpmSignature[];
}

export interface RpmChangelogEntry {
  /** Who made the change, and mostly its version: `A Person <a@example.org> - 1.2-3`. */
  readonly author: string;
  /** Seconds since 1970. */
  readonly date: number;
  readonly text: string;
}

export interface RpmPackage extends RpmIdentity {
  readonly dependencies: Readonly<Record<RpmDependencyKind, readonly RpmDependency[]>>;
  readonly scriptlets: readonly RpmScriptlet[];
  readonly triggers: readonly RpmTrigger[];
  readonly fileTriggers: readonly RpmFileTrigger[];
  /** The newest ten entries at most, newest first. */
  readonly changelog: readonly RpmChangelogEntry[];
  /** `md5`, `sha256` …: the algorithm of every `RpmFile.digest`. */
  readonly fileDigestAlgorithm: string;
  /** In header order (sorted by path in binary packages). */
  readonly files: readonly RpmFile[];
}

/* The files a confined child is to read, opened by the parent: the child sees no path of the host. */

/** Descriptors handed to one child at most: far below any limit on open files. */
export const MAX_FDS = 500;

const HINT = 'give the path of an RPM package';

interface OpenFile {
  readonly fd: number;
  readonly size: number;
}

/**
 * Opens a regular file for reading; the caller closes it.
 * @throws KilnError E_RPM_FORMAT with Node's error as its cause.
 */
export function openFile(file: string): OpenFile {
  let fd: number;
  try {
    // NONBLOCK: a fifo must not stop us.
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw rpmError('E_RPM_FORMAT', `${file}: cannot be read`, { cause, hint: HINT });
  }
  const stat = fstatSync(fd);
  if (stat.isFile()) return { fd, size: stat.size };
  closeSync(fd);
  throw rpmError('E_RPM_FORMAT', `${file}: is not a regular file`, { hint: HINT });
}
