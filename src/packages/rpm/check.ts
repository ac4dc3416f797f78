/**
 * Checks what a confined child says about a package: the child read hostile bytes. Every part is rebuilt from
 * checked values, so extra data is dropped. Written by hand, because loading a schema library takes longer than
 * checking a thousand packages; test/rpm/check.test.ts compares it with one. All functions throw a TypeError.
 */
import { fileTypeOf, isFileFlag } from './files.ts';
import {
  RPM_COMPRESSORS,
  type RpmChangelogEntry,
  type RpmDependency,
  type RpmDependencyKind,
  type RpmDigest,
  type RpmFile,
  type RpmFileTrigger,
  type RpmIdentity,
  type RpmPackage,
  type RpmPayload,
  type RpmScript,
  type RpmScriptlet,
  type RpmSignature,
  type RpmTrigger,
} from './package.ts';
import { DEPENDENCY_KINDS, scriptletTags } from './tags.ts';

type Take<Value> = (value: unknown) => Value;

const text: Take<string> = (value) => {
  if (typeof value === 'string') return value;
  throw new TypeError('a part of it is no text');
};

const count: Take<number> = (value) => {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw new TypeError('expected a non-negative integer');
};

const flag: Take<boolean> = (value) => {
  if (typeof value === 'boolean') return value;
  throw new TypeError('a part of it is neither true nor false');
};

function list<Item>(take: Take<Item>): Take<Item[]> {
  return (value) => {
    if (!Array.isArray(value)) throw new TypeError('a part of it is no list');
    const items: Item[] = [];
    for (const item of value as readonly unknown[]) items.push(take(item));
    return items;
  };
}

function orNull<Value>(take: Take<Value>): Take<Value | null> {
  return (value) => (value === null ? null : take(value));
}

function oneOf<const Values extends readonly (string | number)[]>(
  ...values: Values
): Take<Values[number]> {
  return (value) => {
    const found = values.indexOf(value as Values[number]);
    if (found >= 0) return values[found] as Values[number];
    throw new TypeError('a part of it is none of what it may be');
  };
}

type Shape<Value> = { readonly [Key in keyof Value]-?: Take<Value[Key]> };

function object<Value extends object>(shape: Shape<Value>): Take<Value> {
  const takes = Object.entries<Take<unknown>>(shape);
  return (value) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw new TypeError('a part of it is no object');
    }
    const from = value as Readonly<Record<string, unknown>>;
    const made: Record<string, unknown> = {};
    for (const [key, take] of takes) made[key] = take(from[key]);
    return made as Value;
  };
}

const dependency = object<RpmDependency>({
  name: text,
  operator: oneOf('', '<', '<=', '=', '>=', '>', '<>', '<>='),
  version: text,
  flags: count,
});

const script: Shape<RpmScript> = {
  ...{ interpreter: list(text), lua: flag, body: text },
  ...{ expand: flag, queryFormat: flag, critical: flag },
};

const scriptlet = object<RpmScriptlet>({
  kind: oneOf(...(Object.keys(scriptletTags) as (keyof typeof scriptletTags)[])),
  ...script,
});

const trigger = object<RpmTrigger>({
  kind: oneOf('triggerprein', 'triggerin', 'triggerun', 'triggerpostun'),
  ...script,
  conditions: list(dependency),
});

const fileTrigger = object<RpmFileTrigger>({
  kind: oneOf('filetriggerin', 'filetriggerun', 'filetriggerpostun'),
  ...script,
  scope: oneOf('package', 'transaction'),
  priority: count,
  prefixes: list(text),
});

const digest = object<RpmDigest>({
  scope: oneOf('header', 'payload', 'header+payload', 'archive'),
  algorithm: text,
  expected: text,
  actual: orNull(text),
  status: oneOf('ok', 'bad', 'missing', 'unsupported', 'unchecked'),
});

const signature = object<RpmSignature>({
  scope: oneOf('header', 'header+payload'),
  ...{ algorithm: text, version: count, keyId: text, created: orNull(count) },
  status: oneOf('ok', 'bad', 'nokey', 'unsupported', 'unchecked'),
  ...{ reason: orNull(text), signer: orNull(text), fingerprint: orNull(text) },
});

const payload = object<RpmPayload>({
  format: text,
  compressor: oneOf(...RPM_COMPRESSORS),
  compressorFlags: text,
  ...{ start: count, size: count, archiveSize: orNull(count), stripped: flag },
});

const change = object<RpmChangelogEntry>({ author: text, date: count, text });

const dependencies = object(
  Object.fromEntries(DEPENDENCY_KINDS.map((kind) => [kind, list(dependency)])) as Record<
    RpmDependencyKind,
    Take<RpmDependency[]>
  >,
);

const identity: Shape<RpmIdentity> = {
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

export const takeIdentity: Take<RpmIdentity> = object(identity);

const fileFlag: Take<RpmFile['flags'][number]> = (value) => {
  const name = text(value);
  if (isFileFlag(name)) return name;
  throw new TypeError('a file has an unknown flag');
};

const plainFile = object<Omit<RpmFile, 'type' | 'linkTarget'>>({
  ...{ path: text, mode: count, owner: text, group: text, size: count, mtime: count },
  ...{ digest: orNull(text), flags: list(fileFlag), verifyFlags: count, caps: orNull(text) },
  ...{ device: count, inode: count, nlink: count, rdev: count, lang: text },
  imaSignature: orNull(text),
});

function file(value: unknown): RpmFile {
  const plain = plainFile(value);
  const type = fileTypeOf(plain.mode);
  const { linkTarget } = value as { readonly linkTarget?: unknown };
  if (linkTarget === undefined) throw new TypeError('a file does not say where it leads');
  return { ...plain, type, linkTarget: type === 'symlink' ? text(linkTarget) : null };
}

export const takePackage: Take<RpmPackage> = object<RpmPackage>({
  ...identity,
  files: list(file),
  dependencies,
  scriptlets: list(scriptlet),
  triggers: list(trigger),
  fileTriggers: list(fileTrigger),
  changelog: list(change),
  fileDigestAlgorithm: text,
});
