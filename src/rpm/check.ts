/**
 * Takes what a confined child says about a package: it read hostile bytes, so its messages are
 * checked before anybody uses them. Every part is built anew of what was checked, so that whatever
 * else came along is dropped. By hand, since a schema's library takes longer to load than a thousand
 * packages to check; test/rpm/check.test.ts holds it against one. All throw a TypeError.
 */
import { fileTypeOf, isFileFlag } from './files.ts';
import type {
  RpmChangelogEntry,
  RpmDependency,
  RpmDigest,
  RpmFile,
  RpmFileTrigger,
  RpmIdentity,
  RpmPackage,
  RpmPayload,
  RpmScript,
  RpmScriptlet,
  RpmSignature,
  RpmTrigger,
} from './package.ts';

/** An object whose keys are anything. */
type Keys = Readonly<Record<string, unknown>>;

function keys(value: unknown): Keys {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Keys;
  throw new TypeError('a part of it is no object');
}

function text(value: unknown): string {
  if (typeof value === 'string') return value;
  throw new TypeError('a part of it is no text');
}

function count(value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 0) return value as number;
  throw new TypeError('a part of it is no number that counts');
}

function flag(value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  throw new TypeError('a part of it is neither true nor false');
}

function array(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw new TypeError('a part of it is no list');
}

function list<Item>(value: unknown, take: (item: unknown) => Item): Item[] {
  const items: Item[] = [];
  for (const item of array(value)) items.push(take(item));
  return items;
}

const textOrNull = (value: unknown) => (value === null ? null : text(value));
const countOrNull = (value: unknown) => (value === null ? null : count(value));

/** For values that are one of a few. */
function oneOf<const Values extends readonly (string | number)[]>(...values: Values) {
  return (value: unknown): Values[number] => {
    const found = values.indexOf(value as Values[number]);
    if (found >= 0) return values[found] as Values[number];
    throw new TypeError('a part of it is none of what it may be');
  };
}

const operator = oneOf('', '<', '<=', '=', '>=', '>', '<>', '<>=');
const scriptletKind = oneOf(
  ...(['pretrans', 'prein', 'postin', 'posttrans', 'preuntrans'] as const),
  ...(['preun', 'postun', 'postuntrans', 'verify'] as const),
);
const triggerKind = oneOf('triggerprein', 'triggerin', 'triggerun', 'triggerpostun');
const fileTriggerKind = oneOf('filetriggerin', 'filetriggerun', 'filetriggerpostun');
const triggerScope = oneOf('package', 'transaction');
const digestScope = oneOf('header', 'payload', 'header+payload', 'archive');
const digestStatus = oneOf('ok', 'bad', 'missing', 'unsupported', 'unchecked');
const signatureScope = oneOf('header', 'header+payload');
const signatureStatus = oneOf('ok', 'bad', 'nokey', 'unsupported', 'unchecked');
const compressor = oneOf('none', 'gzip', 'bzip2', 'xz', 'lzma', 'zstd');
const formatVersion = oneOf(3, 4, 6);

function dependency(value: unknown): RpmDependency {
  const from = keys(value);
  return {
    name: text(from.name),
    operator: operator(from.operator),
    version: text(from.version),
    flags: count(from.flags),
  };
}

function script(from: Keys): RpmScript {
  return {
    interpreter: list(from.interpreter, text),
    lua: flag(from.lua),
    body: text(from.body),
    expand: flag(from.expand),
    queryFormat: flag(from.queryFormat),
    critical: flag(from.critical),
  };
}

function scriptlet(value: unknown): RpmScriptlet {
  const from = keys(value);
  return { kind: scriptletKind(from.kind), ...script(from) };
}

function trigger(value: unknown): RpmTrigger {
  const from = keys(value);
  return {
    kind: triggerKind(from.kind),
    ...script(from),
    conditions: list(from.conditions, dependency),
  };
}

function fileTrigger(value: unknown): RpmFileTrigger {
  const from = keys(value);
  return {
    kind: fileTriggerKind(from.kind),
    ...script(from),
    scope: triggerScope(from.scope),
    priority: count(from.priority),
    prefixes: list(from.prefixes, text),
  };
}

function digest(value: unknown): RpmDigest {
  const from = keys(value);
  return {
    scope: digestScope(from.scope),
    algorithm: text(from.algorithm),
    expected: text(from.expected),
    actual: textOrNull(from.actual),
    status: digestStatus(from.status),
  };
}

function signature(value: unknown): RpmSignature {
  const from = keys(value);
  return {
    scope: signatureScope(from.scope),
    algorithm: text(from.algorithm),
    version: count(from.version),
    keyId: text(from.keyId),
    created: countOrNull(from.created),
    status: signatureStatus(from.status),
    reason: textOrNull(from.reason),
    signer: textOrNull(from.signer),
    fingerprint: textOrNull(from.fingerprint),
  };
}

function payload(value: unknown): RpmPayload {
  const from = keys(value);
  return {
    format: text(from.format),
    compressor: compressor(from.compressor),
    compressorFlags: text(from.compressorFlags),
    start: count(from.start),
    size: count(from.size),
    archiveSize: countOrNull(from.archiveSize),
    stripped: flag(from.stripped),
  };
}

function headerRange(value: unknown): RpmIdentity['headerRange'] {
  const from = keys(value);
  return { start: count(from.start), end: count(from.end) };
}

function change(value: unknown): RpmChangelogEntry {
  const from = keys(value);
  return { author: text(from.author), date: count(from.date), text: text(from.text) };
}

function dependencies(value: unknown): RpmPackage['dependencies'] {
  const from = keys(value);
  return {
    requires: list(from.requires, dependency),
    provides: list(from.provides, dependency),
    conflicts: list(from.conflicts, dependency),
    obsoletes: list(from.obsoletes, dependency),
    recommends: list(from.recommends, dependency),
    suggests: list(from.suggests, dependency),
    supplements: list(from.supplements, dependency),
    enhances: list(from.enhances, dependency),
    orderWithRequires: list(from.orderWithRequires, dependency),
  };
}

/** A package without its lists. */
export function takeIdentity(value: unknown): RpmIdentity {
  const from = keys(value);
  return {
    name: text(from.name),
    epoch: countOrNull(from.epoch),
    version: text(from.version),
    release: text(from.release),
    arch: text(from.arch),
    os: text(from.os),
    isSource: flag(from.isSource),
    summary: text(from.summary),
    description: text(from.description),
    license: text(from.license),
    group: text(from.group),
    url: text(from.url),
    vendor: text(from.vendor),
    packager: text(from.packager),
    sourceRpm: textOrNull(from.sourceRpm),
    buildHost: text(from.buildHost),
    buildTime: countOrNull(from.buildTime),
    formatVersion: formatVersion(from.formatVersion),
    installedSize: count(from.installedSize),
    packageSize: count(from.packageSize),
    headerRange: headerRange(from.headerRange),
    payload: payload(from.payload),
    digests: list(from.digests, digest),
    signatures: list(from.signatures, signature),
  };
}

function fileFlag(value: unknown): RpmFile['flags'][number] {
  const name = text(value);
  if (isFileFlag(name)) return name;
  throw new TypeError('a file has an unknown flag');
}

/** @throws KilnError E_RPM_FORMAT for a mode that is of no type */
function file(value: unknown): RpmFile {
  const from = keys(value);
  const mode = count(from.mode);
  const type = fileTypeOf(mode);
  const { linkTarget } = from;
  if (linkTarget === undefined) throw new TypeError('a file does not say where it leads');
  return {
    path: text(from.path),
    type,
    mode,
    owner: text(from.owner),
    group: text(from.group),
    size: count(from.size),
    mtime: count(from.mtime),
    digest: textOrNull(from.digest),
    linkTarget: type === 'symlink' ? text(linkTarget) : null,
    flags: list(from.flags, fileFlag),
    verifyFlags: count(from.verifyFlags),
    caps: textOrNull(from.caps),
    device: count(from.device),
    inode: count(from.inode),
    nlink: count(from.nlink),
    rdev: count(from.rdev),
    lang: text(from.lang),
    imaSignature: textOrNull(from.imaSignature),
  };
}

/** A package with all that is in it. */
export function takePackage(value: unknown): RpmPackage {
  const from = keys(value);
  return {
    ...takeIdentity(value),
    files: list(from.files, file),
    dependencies: dependencies(from.dependencies),
    scriptlets: list(from.scriptlets, scriptlet),
    triggers: list(from.triggers, trigger),
    fileTriggers: list(from.fileTriggers, fileTrigger),
    changelog: list(from.changelog, change),
    fileDigestAlgorithm: text(from.fileDigestAlgorithm),
  };
}
