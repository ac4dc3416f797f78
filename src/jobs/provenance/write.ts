import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type TextFile, writeTexts } from '../../artifacts/staging.ts';
import { defined } from '../../defined.ts';
import { KILN_VERSION } from '../../host/state/paths.ts';
import { readContents } from '../../image/store/manifest.ts';
import { digestFile } from '../../packages/repository/cache.ts';
import type { LockedPackage } from '../../packages/repository/lock/lock.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { BuildReport, BuiltPackage } from '../rpmbuild/outcome/report.ts';
import type { BuildRequest, ProvenanceOptions } from '../rpmbuild/request.ts';
import { CHECKSUMS_FILE, checksumManifest, type DigestedFile, digestFiles } from './checksums.ts';
import { rpmPurl, SBOM_FILE, type SbomPackage, spdxDocument } from './spdx.ts';
import {
  ENVELOPE_FILE,
  externalParameters,
  provenanceStatement,
  type Resource,
  readSigningKey,
  type SigningKey,
  STATEMENT_FILE,
  signedEnvelope,
} from './statement.ts';

/** What a build leaves beside its packages, as far as it is there. */
const BYPRODUCTS = [
  ...(['build.log', 'root.log', 'state.log', 'hw_info.log', 'installed_pkgs.log'] as const),
  ...(['lock.json', 'buildroot_lock.json', 'result.json'] as const),
];

/**
 * Puts SBOM, provenance and SHA256SUMS into the result directory of a build that went well: the
 * last thing that is done there.
 * @throws KilnError E_PROVENANCE_KEY, E_RESULTDIR
 */
export async function writeProvenance(engine: Engine, report: BuildReport): Promise<void> {
  const { image, resultDirectory, request, packages, sourcePackage } = report;
  if (image === undefined) return;
  const { builder, sourceDateEpoch } = request.provenance ?? {};
  const key = await signingKey(request);
  const { packages: root } = await readContents(engine.paths, image.id);
  const there = BYPRODUCTS.filter((name) => existsSync(join(resultDirectory, name)));
  const byproducts = await digestFiles(
    resultDirectory,
    there.map((path) => ({ path })),
  );
  const { path: source, spec } = request.source;
  const digest = report.sourceDigest ?? (await digestFile(source, 'sha256'));
  const attestations = attestBuild({
    report,
    root,
    sources: [
      { name: basename(source), sha256: digest.slice('sha256:'.length) },
      ...(spec === undefined
        ? []
        : [{ name: basename(spec), sha256: (await digestFile(spec, 'sha256')).slice(7) }]),
    ],
    byproducts,
    kiln: KILN_VERSION,
    key,
    ...defined({ builder, sourceDateEpoch }),
  });
  const built = [...packages, ...(sourcePackage === undefined ? [] : [sourcePackage])];
  const manifest = checksumManifest([
    ...built.map((entry) => ({ path: entry.file, sha256: entry.sha256 })),
    ...byproducts,
    ...attestations.map(({ name, content }) => ({ path: name, sha256: digestOf(content) })),
  ]);
  const files = [...attestations, { name: CHECKSUMS_FILE, content: manifest }];
  await writeTexts(resultDirectory, files, request.caller);
}

/** The key that a request names. @throws KilnError E_PROVENANCE_KEY */
export async function signingKey({ provenance }: BuildRequest): Promise<SigningKey | undefined> {
  return provenance?.key === undefined ? undefined : await readSigningKey(provenance.key);
}

function digestOf(content: string | Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

/** A build that went well, and everything that is said about it. */
export interface AttestInput extends Pick<ProvenanceOptions, 'builder' | 'sourceDateEpoch'> {
  readonly report: BuildReport;
  /** Everything in the build root: the base image's packages and those on top. */
  readonly root: readonly LockedPackage[];
  /** What was handed in: the source package, or the spec. */
  readonly sources: readonly { readonly name: string; readonly sha256: string }[];
  /** Other files of the result directory that came of the build: logs, locks. */
  readonly byproducts: readonly DigestedFile[];
  readonly kiln: string;
  readonly key?: SigningKey | undefined;
}

/**
 * Says what a build made, from what, and how: an SPDX SBOM, a SLSA provenance, and with a key the
 * same signed. Nothing is written.
 */
export function attestBuild(input: AttestInput): TextFile[] {
  const { report, root, sourceDateEpoch } = input;
  const { image, base, request } = report;
  const { worker } = request.provenance ?? {};
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
    external: externalParameters(request),
    internal: {
      base: base ?? null,
      image,
      buildRequires: [...report.buildRequires].sort(),
      worker,
    },
    materials: [...input.sources.map(sourceResource), ...root.map(rootResource)],
    // Logs have times in them.
    byproducts: sourceDateEpoch === undefined ? input.byproducts.map(fileResource) : [],
    builder: input.builder,
    kiln: input.kiln,
    invocation: sourceDateEpoch === undefined ? (report.sandbox ?? '') : image.id,
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
