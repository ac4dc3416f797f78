/** Turns the headers of a package into an RpmPackage. Checks no digest and no signature. */
import { readSync } from 'node:fs';
import { readAllDependencies } from './dependency.ts';
import { rpmError } from './errors.ts';
import { fileDigestAlgorithm, readFiles } from './files.ts';
import type { RpmHeader } from './header.ts';
import type {
  RpmChangelogEntry,
  RpmCompressor,
  RpmIdentity,
  RpmPackage,
  RpmPayload,
} from './package.ts';
import { readFileTriggers, readScriptlets, readTriggers } from './scripts.ts';
import type { RpmSections } from './sections.ts';
import { SigTag, Tag } from './tags.ts';

const COMPRESSORS: readonly string[] = ['none', 'gzip', 'bzip2', 'xz', 'lzma', 'zstd'];

/** A package without what has to be computed. */
export type RpmDescription = Omit<RpmPackage, 'digests' | 'signatures'>;

/** @throws KilnError E_RPM_FORMAT, E_RPM_UNSUPPORTED. */
export function describePackage(fd: number, sections: RpmSections): RpmDescription {
  const { header, signature } = sections;
  return {
    ...describeIdentity(fd, sections),
    dependencies: readAllDependencies(header),
    scriptlets: readScriptlets(header),
    triggers: readTriggers(header),
    fileTriggers: readFileTriggers(header),
    changelog: readChangelog(header),
    fileDigestAlgorithm: fileDigestAlgorithm(header),
    files: readFiles(header, signature),
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

/** Reads no lists: several times faster than all of a package. */
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

/** v6 says so; v4 is told from v3 by its immutable region. */
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
    format,
    compressor: compressorOf(fd, header, at.headerEnd),
    compressorFlags: header.string(Tag.payloadFlags) ?? '',
    start: at.headerEnd,
    size: at.fileSize - at.headerEnd,
    archiveSize,
    stripped: header.has(Tag.longFileSizes),
  };
}

/**
 * rpm leaves the tag out both for gzip (once the only one) and for an uncompressed payload, which
 * zlib's reader passes through: the first bytes tell.
 */
function compressorOf(fd: number, header: RpmHeader, payloadStart: number): RpmCompressor {
  const name = header.string(Tag.payloadCompressor) ?? 'gzip';
  if (!COMPRESSORS.includes(name)) {
    throw rpmError('E_RPM_UNSUPPORTED', `its payload is compressed with '${name}'`);
  }
  if (name !== 'gzip') return name as RpmCompressor;
  const magic = Buffer.alloc(4);
  readSync(fd, magic, 0, magic.length, payloadStart);
  return magic.toString('latin1') === '0707' ? 'none' : 'gzip';
}
