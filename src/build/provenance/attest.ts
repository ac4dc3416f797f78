import { join } from 'node:path';
import type { LockedPackage } from '../../repository/lock.ts';
import { readIdentities } from '../../rpm/read.ts';
import type { BuildReport, BuiltPackage } from '../report.ts';
import type { BuildRequest } from '../request.ts';
import { type DigestedFile, digestFiles, type ListedFile } from './checksums.ts';
import { ENVELOPE_FILE, signedEnvelope } from './envelope.ts';
import { externalParameters } from './parameters.ts';
import { rpmPurl } from './purl.ts';
import type { SigningKey } from './signing-key.ts';
import { SBOM_FILE, type SbomPackage, spdxDocument } from './spdx.ts';
import { provenanceStatement, type Resource, STATEMENT_FILE } from './statement.ts';

/** A build that went well, and everything that is said about it. */
export interface AttestInput {
  readonly request: BuildRequest;
  readonly report: BuildReport;
  /** Everything in the build root: the base image's packages and those on top. */
  readonly root: readonly LockedPackage[];
  /** What was handed in: the SRPM, or the spec and its sources. */
  readonly sources: readonly { readonly name: string; readonly sha256: string }[];
  /** Other files of the result directory that came of the build: logs, locks. */
  readonly byproducts: readonly ListedFile[];
  /** Version of kiln. */
  readonly kiln: string;
  readonly key?: SigningKey | undefined;
  /** URI of who runs this builder; without one the provenance claims none. */
  readonly builder?: string | undefined;
  /** Stands in for all times, seconds since 1970: the same build then gives the same bytes. */
  readonly sourceDateEpoch?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A file for the result directory. */
export interface AttestationFile {
  readonly name: string;
  readonly content: string;
}

/**
 * Says what a build made, from what, and how: an SPDX SBOM, a SLSA provenance, and with a key the
 * same signed. Nothing is written. Headers of the built packages are read in a confined child.
 * @throws KilnError E_RESULTDIR for a file that is gone, E_RPM_FORMAT for a package that is none
 */
export async function attestBuild(input: AttestInput): Promise<AttestationFile[]> {
  const { request, report, root } = input;
  const { resultDirectory, image, base } = report;
  if (image === undefined) throw new TypeError('a build that went well has an image');
  const finished = new Date(report.started.getTime() + duration(report));
  const time = (date: Date) =>
    input.sourceDateEpoch === undefined ? date : new Date(input.sourceDateEpoch * 1000);
  const built = [
    ...report.packages,
    ...(report.sourcePackage === undefined ? [] : [report.sourcePackage]),
  ];
  const sbom = spdxDocument({
    name: (report.sourcePackage?.nevra ?? report.name).replace(/\.(no)?src$/, ''),
    created: time(finished),
    kiln: input.kiln,
    built: await describe(resultDirectory, built, input.signal),
    root: image,
    rootPackages: root,
  });
  const byproducts = await digestFiles(resultDirectory, input.byproducts);
  const statement = provenanceStatement({
    subjects: built.map(({ file, sha256 }) => ({ name: file, sha256 })),
    external: externalParameters(request),
    internal: { base: base ?? null, image, buildRequires: [...report.buildRequires].sort() },
    materials: [...input.sources.map(sourceResource), ...root.map(rootResource)],
    byproducts: input.sourceDateEpoch === undefined ? byproducts.map(fileResource) : [],
    builder: input.builder,
    kiln: input.kiln,
    invocation: input.sourceDateEpoch === undefined ? (report.box ?? '') : image.id,
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

async function describe(
  directory: string,
  built: readonly BuiltPackage[],
  signal: AbortSignal | undefined,
): Promise<SbomPackage[]> {
  const packages: SbomPackage[] = [];
  const paths = built.map(({ file }) => join(directory, file));
  for await (const { index, package: rpm, error } of readIdentities(paths, { signal })) {
    if (error !== undefined) throw error;
    const { file, sha256, isSource } = built[index]!;
    const { name, epoch, version, release, arch, summary, license, vendor, url } = rpm;
    packages.push({
      ...{ file, sha256, isSource, name, epoch, version, release, arch },
      ...{ summary, license, vendor, url },
    });
  }
  return packages;
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
