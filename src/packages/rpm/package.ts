/**
 * What kiln knows of one .rpm file: plain JSON, which crosses the pipe from the confined child that read the file.
 * Strings are decoded as UTF-8; other bytes become lone surrogates (see filename.ts), so that paths survive unchanged.
 *
 * The child read hostile bytes, so what it says is checked: each shape is a type and a function that rebuilds a value
 * from checked parts, without extra data, or throws a TypeError. No schema library does it, because that takes several
 * times as long for every package of an image; test/rpm/check.test.ts compares the shapes with one.
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import { foundAt } from '../../host/files/held.ts';
import { DEPENDENCY_KINDS, type dependencyTags, fileFlags, scriptletTags } from './tags.ts';

type Take<Value> = (value: unknown) => Value;
type Shape = Readonly<Record<string, Take<unknown>>>;
type Fields<Of extends Shape> = { readonly [Key in keyof Of]: ReturnType<Of[Key]> };

const text: Take<string> = (value) => {
  if (typeof value === 'string') return value;
  throw new TypeError('expected a text');
};

const count: Take<number> = (value) => {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw new TypeError('expected a non-negative integer');
};

const flag: Take<boolean> = (value) => {
  if (typeof value === 'boolean') return value;
  throw new TypeError('expected true or false');
};

function list<Item>(take: Take<Item>): Take<readonly Item[]> {
  return (value) => {
    if (!Array.isArray(value)) throw new TypeError('expected a list');
    const items: Item[] = [];
    for (const item of value as readonly unknown[]) items.push(take(item));
    return items;
  };
}

function orNull<Value>(take: Take<Value>): Take<Value | null> {
  return (value) => (value === null ? null : take(value));
}

function oneOf<const Value extends string | number>(...values: readonly Value[]): Take<Value> {
  return (value) => {
    const found = values.indexOf(value as Value);
    if (found >= 0) return values[found] as Value;
    throw new TypeError('expected one of the known values');
  };
}

function object<Of extends Shape>(shape: Of): Take<Fields<Of>> {
  const takes = Object.entries(shape);
  return (value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new TypeError('expected an object');
    }
    const from = value as Readonly<Record<string, unknown>>;
    const made: Record<string, unknown> = {};
    for (const [key, take] of takes) made[key] = take(from[key]);
    return made as Fields<Of>;
  };
}

export type RpmDependencyKind = keyof typeof dependencyTags;

const dependency = object({
  /** A name, a path, a rich dependency `(a or b)`, or a namespaced one such as `rpmlib(X)`. */
  name: text,
  operator: oneOf('', '<', '<=', '=', '>=', '>', '<>', '<>='),
  version: text,
  /** Raw RPMSENSE_* bits (rpm/rpmds.h); the useful ones are named in dependency.ts. */
  flags: count,
});
export type RpmDependency = ReturnType<typeof dependency>;

export type RpmScriptletKind = keyof typeof scriptletTags;

const script = {
  interpreter: list(text),
  lua: flag,
  /** `''` for `%post -p /sbin/ldconfig` and the like: run the interpreter alone. */
  body: text,
  /** `%post -e`: macros are expanded at install time. */
  expand: flag,
  /** `%post -q`: header query formats are expanded at install time. */
  queryFormat: flag,
  /** `RPMSCRIPT_FLAG_CRITICAL`: a failure fails the transaction. */
  critical: flag,
};
export type RpmScript = Fields<typeof script>;

const scriptlet = object({
  kind: oneOf(...(Object.keys(scriptletTags) as RpmScriptletKind[])),
  ...script,
});
export type RpmScriptlet = ReturnType<typeof scriptlet>;

const trigger = object({
  kind: oneOf('triggerprein', 'triggerin', 'triggerun', 'triggerpostun'),
  ...script,
  conditions: list(dependency),
});
export type RpmTrigger = ReturnType<typeof trigger>;

const fileTrigger = object({
  kind: oneOf('filetriggerin', 'filetriggerun', 'filetriggerpostun'),
  ...script,
  scope: oneOf('package', 'transaction'),
  /** Higher runs first; rpm's default is 1000000. */
  priority: count,
  prefixes: list(text),
});
export type RpmFileTrigger = ReturnType<typeof fileTrigger>;

export type RpmFileFlag = keyof typeof fileFlags;

const fileFlag: Take<RpmFileFlag> = (value) => {
  const name = text(value);
  if (Object.hasOwn(fileFlags, name)) return name as RpmFileFlag;
  throw new TypeError('a file has an unknown flag');
};

const plainFile = object({
  /** Absolute and normal (`/usr/bin/gcc`); in a source package a bare name. */
  path: text,
  /** Full st_mode: type bits, set-id bits and permissions. */
  mode: count,
  owner: text,
  group: text,
  /** Bytes; of a symbolic link those of its target; of a directory whatever the packager's file system said. */
  size: count,
  mtime: count,
  /** Lower-case hex; null for what is no regular file, and for ghosts. */
  digest: orNull(text),
  flags: list(fileFlag),
  /** As cap_to_text(3) writes it (`cap_net_raw=ep`); null without, `'='` for the empty set. */
  caps: orNull(text),
  /** Files with the same (device, inode) and nlink > 1 are hard links of each other. */
  device: count,
  inode: count,
  nlink: count,
  rdev: count,
});

const TYPES = new Map([
  [constants.S_IFREG, 'file'],
  [constants.S_IFDIR, 'directory'],
  [constants.S_IFLNK, 'symlink'],
  [constants.S_IFCHR, 'char'],
  [constants.S_IFBLK, 'block'],
  [constants.S_IFIFO, 'fifo'],
  [constants.S_IFSOCK, 'socket'],
] as const);

export function fileTypeOf(mode: number) {
  const type = TYPES.get((mode & constants.S_IFMT) as never);
  if (type !== undefined) return type;
  throw rpmError('E_RPM_FORMAT', `the header is broken: a file has the mode ${mode}`);
}

export type RpmFile = ReturnType<typeof plainFile> & {
  readonly type: ReturnType<typeof fileTypeOf>;
  readonly linkTarget: string | null;
};

function file(value: unknown): RpmFile {
  const plain = plainFile(value);
  const type = fileTypeOf(plain.mode);
  const { linkTarget } = value as { readonly linkTarget?: unknown };
  if (linkTarget === undefined) throw new TypeError('a file does not say where it leads');
  return { ...plain, type, linkTarget: type === 'symlink' ? text(linkTarget) : null };
}

export const RPM_COMPRESSORS = ['none', 'gzip', 'bzip2', 'xz', 'lzma', 'zstd'] as const;
export type RpmCompressor = (typeof RPM_COMPRESSORS)[number];

const payload = object({
  compressor: oneOf(...RPM_COMPRESSORS),
  start: count,
  size: count,
  archiveSize: orNull(count),
});
export type RpmPayload = ReturnType<typeof payload>;

const digest = object({
  scope: oneOf('header', 'payload', 'header+payload', 'archive'),
  algorithm: text,
  expected: text,
  actual: orNull(text),
  /** `unsupported`: an algorithm this Node has not. */
  status: oneOf('ok', 'bad', 'unsupported', 'unchecked'),
});
export type RpmDigest = ReturnType<typeof digest>;

const signature = object({
  scope: oneOf('header', 'header+payload'),
  algorithm: text,
  version: count,
  /** 16 lower-case hex digits, or the whole fingerprint for version 6; `''` where it cannot be read. */
  keyId: text,
  /** When it says it was made, seconds since 1970, or null. */
  created: orNull(count),
  /**
   * As rpm judges: `nokey`: no key of the keyring made it; `unsupported`: too weak for rpm, or unknown to it; `bad`:
   * not of this package, malformed, from the future, or of a key that was revoked or had expired.
   */
  status: oneOf('ok', 'bad', 'nokey', 'unsupported', 'unchecked'),
  reason: orNull(text),
  signer: orNull(text),
  /** Of that key, or of the main key it belongs to: lower-case hex. */
  fingerprint: orNull(text),
});
export type RpmSignature = ReturnType<typeof signature>;

const identity = {
  ...{ name: text, epoch: orNull(count), version: text, release: text, arch: text, os: text },
  ...{ isSource: flag, summary: text, description: text, license: text, group: text, url: text },
  ...{ vendor: text, packager: text, sourceRpm: orNull(text), buildHost: text },
  ...{ buildTime: orNull(count), formatVersion: oneOf(3, 4, 6) },
  ...{ installedSize: count, packageSize: count },
  headerRange: object({ start: count, end: count }),
  payload,
  digests: list(digest),
  signatures: list(signature),
};
export type RpmIdentity = Fields<typeof identity>;
export interface RpmEvr {
  readonly epoch: number | null;
  readonly version: string;
  readonly release: string;
}

/** @throws TypeError for anything else */
export const takeIdentity: Take<RpmIdentity> = object(identity);

const change = object({ author: text, date: count, text });
export type RpmChangelogEntry = ReturnType<typeof change>;

const dependencies = Object.fromEntries(DEPENDENCY_KINDS.map((kind) => [kind, list(dependency)]));

/** @throws TypeError for anything else */
export const takePackage = object({
  ...identity,
  files: list(file),
  dependencies: object(dependencies as Record<RpmDependencyKind, Take<readonly RpmDependency[]>>),
  scriptlets: list(scriptlet),
  triggers: list(trigger),
  fileTriggers: list(fileTrigger),
  changelog: list(change),
  fileDigestAlgorithm: text,
});
export type RpmPackage = ReturnType<typeof takePackage>;

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
    fd = openSync(foundAt(resolve(file)), constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw rpmError('E_RPM_FORMAT', `${file}: cannot be read`, { cause, hint: HINT });
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw rpmError('E_RPM_FORMAT', `${file}: is not a regular file`, { hint: HINT });
}
