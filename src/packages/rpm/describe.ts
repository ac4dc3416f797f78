import { readSync } from 'node:fs';
import { readAllDependencies, readDependencies, Sense } from './dependency.ts';
import { fileDigestAlgorithm, readFiles } from './files.ts';
import type { RpmHeader } from './header.ts';
import {
  RPM_COMPRESSORS,
  type RpmChangelogEntry,
  type RpmCompressor,
  type RpmDependency,
  type RpmFileTrigger,
  type RpmIdentity,
  type RpmPackage,
  type RpmPayload,
  type RpmScript,
  type RpmScriptlet,
  type RpmScriptletKind,
  type RpmTrigger,
  rpmError,
} from './package.ts';
import type { RpmSections } from './sections.ts';
import {
  fileTriggerTags,
  SigTag,
  scriptletTags,
  Tag,
  type TriggerTags,
  transFileTriggerTags,
  triggerTags,
} from './tags.ts';

/* Scriptlets and triggers of a header. Source: rpm's lib/rpmscript.cc, include/rpm/rpmds.h. */

const ScriptFlag = { expand: 1, queryFormat: 2, critical: 4 };

const DEFAULT_INTERPRETER = ['/bin/sh'];
const LUA = '<lua>';
const DEFAULT_PRIORITY = 1000000;

function script(body: string, interpreter: readonly string[], flags: number): RpmScript {
  return {
    interpreter,
    lua: interpreter[0] === LUA,
    body,
    expand: (flags & ScriptFlag.expand) !== 0,
    queryFormat: (flags & ScriptFlag.queryFormat) !== 0,
    critical: (flags & ScriptFlag.critical) !== 0,
  };
}

function readScriptlets(header: RpmHeader): RpmScriptlet[] {
  const scriptlets: RpmScriptlet[] = [];
  for (const [kind, [bodyTag, programTag, flagsTag]] of Object.entries(scriptletTags)) {
    const body = header.string(bodyTag);
    const program = header.strings(programTag);
    if (body === undefined && program === undefined) continue;
    const rest = script(body ?? '', program ?? DEFAULT_INTERPRETER, header.number(flagsTag) ?? 0);
    scriptlets.push({ kind: kind as RpmScriptletKind, ...rest });
  }
  return scriptlets;
}

function readTriggered(header: RpmHeader, tags: TriggerTags) {
  const bodies = header.strings(tags.scripts) ?? [];
  const programs = header.strings(tags.programs);
  const flags = header.numbers(tags.scriptFlags);
  const priorities = tags.priorities === undefined ? undefined : header.numbers(tags.priorities);
  const conditions = readDependencies(header, [tags.names, tags.flags, tags.versions]);
  const index = header.numbers(tags.index) ?? [];
  if (index.length !== conditions.length || index.some((i) => i >= bodies.length)) {
    throw rpmError('E_RPM_FORMAT', 'the header is broken: triggers and their scripts do not match');
  }
  return bodies.map((body, number) => ({
    script: script(
      body,
      programs?.[number] === undefined ? DEFAULT_INTERPRETER : [programs[number]],
      flags?.[number] ?? 0,
    ),
    conditions: conditions.filter((_, i) => index[i] === number),
    priority: priorities?.[number] ?? DEFAULT_PRIORITY,
  }));
}

function triggerKind(conditions: readonly RpmDependency[]): RpmTrigger['kind'] {
  const flags = conditions[0]?.flags ?? 0;
  if ((flags & Sense.triggerPrein) !== 0) return 'triggerprein';
  if ((flags & Sense.triggerIn) !== 0) return 'triggerin';
  if ((flags & Sense.triggerUn) !== 0) return 'triggerun';
  return 'triggerpostun';
}

function readTriggers(header: RpmHeader): RpmTrigger[] {
  return readTriggered(header, triggerTags).map((trigger) => ({
    kind: triggerKind(trigger.conditions),
    ...trigger.script,
    conditions: trigger.conditions,
  }));
}

function readFileTriggers(header: RpmHeader): RpmFileTrigger[] {
  const families = [
    ['package', fileTriggerTags],
    ['transaction', transFileTriggerTags],
  ] as const;
  return families.flatMap(([scope, tags]) =>
    readTriggered(header, tags).map((trigger) => ({
      kind: `file${triggerKind(trigger.conditions)}` as RpmFileTrigger['kind'],
      ...trigger.script,
      scope,
      priority: trigger.priority,
      prefixes: trigger.conditions.map(({ name }) => name),
    })),
  );
}

/** Digests and signatures are checked apart. */
export type RpmDescription = Omit<RpmPackage, 'digests' | 'signatures'>;

export function describePackage(fd: number, sections: RpmSections): RpmDescription {
  const { header } = sections;
  return {
    ...describeIdentity(fd, sections),
    dependencies: readAllDependencies(header),
    scriptlets: readScriptlets(header),
    triggers: readTriggers(header),
    fileTriggers: readFileTriggers(header),
    changelog: readChangelog(header),
    fileDigestAlgorithm: fileDigestAlgorithm(header),
    files: readFiles(header),
  };
}

/** As many entries as createrepo_c puts into repository metadata. */
const CHANGELOG_ENTRIES = 10;

function readChangelog(header: RpmHeader): RpmChangelogEntry[] {
  const dates = header.numbers(Tag.changelogTime) ?? [];
  const authors = header.strings(Tag.changelogName) ?? [];
  const texts = header.strings(Tag.changelogText) ?? [];
  return dates
    .slice(0, CHANGELOG_ENTRIES)
    .map((date, i) => ({ author: authors[i] ?? '', date, text: texts[i] ?? '' }));
}

export function describeIdentity(
  fd: number,
  sections: RpmSections,
): Omit<RpmIdentity, 'digests' | 'signatures'> {
  const { header } = sections;
  const text = (tag: number) => header.string(tag) ?? '';
  const name = header.string(Tag.name);
  if (name === undefined) throw rpmError('E_RPM_FORMAT', 'the header gives the package no name');
  const isSource = header.has(Tag.sourcePackage) || !header.has(Tag.sourceRpm);
  return {
    name,
    epoch: header.number(Tag.epoch) ?? null,
    version: text(Tag.version),
    release: text(Tag.release),
    arch: isSource ? sourceArch(header) : text(Tag.arch),
    os: text(Tag.os),
    isSource,
    summary: text(Tag.summary),
    description: text(Tag.description),
    license: text(Tag.license),
    group: text(Tag.group),
    url: text(Tag.url),
    vendor: text(Tag.vendor),
    packager: text(Tag.packager),
    sourceRpm: header.string(Tag.sourceRpm) ?? null,
    buildHost: text(Tag.buildHost),
    buildTime: header.number(Tag.buildTime) ?? null,
    formatVersion: formatVersion(header),
    installedSize: header.number(Tag.longSize) ?? header.number(Tag.size) ?? 0,
    packageSize: sections.fileSize,
    headerRange: { start: sections.headerStart, end: sections.headerEnd },
    payload: describePayload(fd, sections),
  };
}

function sourceArch(header: RpmHeader): string {
  return header.has(Tag.noSource) || header.has(Tag.noPatch) ? 'nosrc' : 'src';
}

/** A v6 header says so; v4 differs from v3 by its immutable region. */
function formatVersion(header: RpmHeader): 3 | 4 | 6 {
  if (header.has(Tag.rpmFormat)) return 6;
  return header.hasRegion ? 4 : 3;
}

function describePayload(fd: number, { header, signature, ...at }: RpmSections): RpmPayload {
  const format = header.string(Tag.payloadFormat) ?? 'cpio';
  if (format !== 'cpio') {
    throw rpmError('E_RPM_UNSUPPORTED', `its payload is a '${format}'; kiln reads cpio`);
  }
  const archiveSize =
    header.number(Tag.payloadSizeAlt) ??
    signature.number(SigTag.longArchiveSize) ??
    signature.number(SigTag.payloadSize) ??
    header.number(Tag.archiveSize) ??
    null;
  return {
    compressor: compressorOf(fd, header, at.headerEnd),
    start: at.headerEnd,
    size: at.fileSize - at.headerEnd,
    archiveSize,
  };
}

/**
 * rpm leaves the tag out both for gzip (once the only format) and for an uncompressed payload, which zlib's
 * reader passes through. The first bytes tell which.
 */
function compressorOf(fd: number, header: RpmHeader, payloadStart: number): RpmCompressor {
  const name = header.string(Tag.payloadCompressor) ?? 'gzip';
  const known = RPM_COMPRESSORS.find((compressor) => compressor === name);
  if (known === undefined) {
    throw rpmError('E_RPM_UNSUPPORTED', `its payload is compressed with '${name}'`);
  }
  if (known !== 'gzip') return known;
  const magic = Buffer.alloc(4);
  readSync(fd, magic, 0, magic.length, payloadStart);
  return magic.toString('latin1') === '0707' ? 'none' : 'gzip';
}
