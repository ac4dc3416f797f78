import type { TextFile } from '../../artifacts/staging.ts';
import type { LockedPackage } from '../../repository/lock.ts';
import type { BuildReport, BuiltPackage } from '../report.ts';
import type { ProvenanceOptions } from '../request.ts';
import type { DigestedFile } from './checksums.ts';
import { ENVELOPE_FILE, signedEnvelope } from './envelope.ts';
import { externalParameters } from './parameters.ts';
import { rpmPurl } from './purl.ts';
import type { SigningKey } from './signing-key.ts';
import { SBOM_FILE, type SbomPackage, spdxDocument } from './spdx.ts';
import { provenanceStatement, type Resource, STATEMENT_FILE } from './statement.ts';

/** A build that went well, and everything that is said about it. */
export interface AttestInput extends Pick<ProvenanceOptions, 'builder' | 'sourceDateEpoch'> {
  readonly report: BuildReport;
  /** Everything in the build root: the base image's packages and those on top. */
  readonly root: readonly LockedPackage[];
  /** What was handed in: the source package, or the spec. */
  readonly sources: readonly { readonly name: string; readonly sha256: string }[];
  /** Other files of the result directory that came of the build: logs, locks. */
  readonly byproducts: readonly DigestedFile[];
  /** Version of kiln. */
  readonly kiln: string;
  readonly key?: SigningKey | undefined;
}

/**
 * Says what a build made, from what, and how: an SPDX SBOM, a SLSA provenance, and with a key the
 * same signed. Nothing is written.
 */
export function attestBuild(input: AttestInput): TextFile[] {
  const { report, root, sourceDateEpoch } = input;
  const { image, base } = report;
  if (image === undefined) throw new TypeError('a build that went well has an image');
  const finished = new Date(report.started.getTime() + duration(report));
  const time = (date: Date) =>
    sourceDateEpoch === undefined ? date : new Date(sourceDateEpoch * 1000);
  const built = [
    ...report.packages,
    ...(report.sourcePackage === undefined ? [] : [report.sourcePackage]),
  ];
  const sbom = spdxDocument({
    name: (report.sourcePackage?.nevra ?? report.name).replace(/\.(no)?src$/, ''),
    created: time(finished),
    kiln: input.kiln,
    built: built.map(describe),
    root: image,
    rootPackages: root,
  });
  const statement = provenanceStatement({
    subjects: built.map(({ file, sha256 }) => ({ name: file, sha256 })),
    external: externalParameters(report.request),
    internal: { base: base ?? null, image, buildRequires: [...report.buildRequires].sort() },
    materials: [...input.sources.map(sourceResource), ...root.map(rootResource)],
    // Logs have times in them.
    byproducts: sourceDateEpoch === undefined ? input.byproducts.map(fileResource) : [],
    builder: input.builder,
    kiln: input.kiln,
    invocation: sourceDateEpoch === undefined ? (report.box ?? '') : image.id,
    started: time(report.started),
    finished: time(finished),
  });
  return [
    { name: SBOM_FILE, content: sbom },
    { name: STATEMENT_FILE, content: statement },
    ...(input.key === undefined
      ? []
      : [{ name: ENVELOPE_FILE, content: signedEnvelope(statement, input.key) }]),
  ];
}

/** Milliseconds from the start to the end of the last phase. */
function duration({ phases }: BuildReport): number {
  return Math.max(0, ...phases.map((phase) => phase.start + phase.duration));
}

function describe({ file, sha256, isSource, identity }: BuiltPackage): SbomPackage {
  return { file, sha256, isSource, ...identity };
}

function sourceResource({ name, sha256 }: { name: string; sha256: string }): Resource {
  return { name, digest: { sha256 } };
}

function rootResource(entry: LockedPackage): Resource {
  const [algorithm = '', hex = ''] = entry.digest.split(':');
  return {
    name: entry.nevra,
    uri: rpmPurl(entry),
    digest: { [algorithm]: hex },
    annotations: { repository: entry.repository },
  };
}

function fileResource({ path, sha256 }: DigestedFile): Resource {
  return { name: path.toWellFormed(), digest: { sha256 } };
}
