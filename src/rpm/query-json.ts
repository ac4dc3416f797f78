/** The object `kiln rpm query --json` prints for a package: what scripts rely on. */
import { formatDependency } from './dependency.ts';
import type { RpmDependencyKind, RpmFile, RpmPackage } from './package.ts';

/** Permission and set-id bits, as `chmod` takes them. */
export function octalMode(mode: number): string {
  return `0${(mode & 0o7777).toString(8).padStart(3, '0')}`;
}

function fileJson(file: RpmFile, algorithm: string) {
  return {
    path: file.path,
    type: file.type,
    mode: octalMode(file.mode),
    owner: file.owner,
    group: file.group,
    size: file.size,
    mtime: file.mtime,
    digest: file.digest === null ? null : `${algorithm}:${file.digest}`,
    linkTarget: file.linkTarget,
    flags: file.flags,
    caps: file.caps,
  };
}

/** Plain JSON; names that are no UTF-8 have lone surrogates (see filename.ts). */
export function queryJson(file: string, rpm: RpmPackage) {
  const list = (kind: RpmDependencyKind) => rpm.dependencies[kind].map(formatDependency);
  return {
    file,
    name: rpm.name,
    epoch: rpm.epoch,
    version: rpm.version,
    release: rpm.release,
    arch: rpm.arch,
    summary: rpm.summary,
    license: rpm.license,
    sourceRpm: rpm.sourceRpm,
    buildTime: rpm.buildTime,
    payloadCompressor: rpm.payload.compressor,
    formatVersion: rpm.formatVersion,
    packageSize: rpm.packageSize,
    installedSize: rpm.installedSize,
    requires: list('requires'),
    provides: list('provides'),
    conflicts: list('conflicts'),
    obsoletes: list('obsoletes'),
    recommends: list('recommends'),
    suggests: list('suggests'),
    supplements: list('supplements'),
    enhances: list('enhances'),
    scriptlets: rpm.scriptlets,
    triggers: rpm.triggers.map(({ conditions, ...trigger }) => ({
      ...trigger,
      conditions: conditions.map(formatDependency),
    })),
    fileTriggers: rpm.fileTriggers,
    signatures: rpm.signatures,
    digests: rpm.digests,
    files: rpm.files.map((entry) => fileJson(entry, rpm.fileDigestAlgorithm)),
  };
}
