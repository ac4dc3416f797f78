import { hash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type TextFile, writeTexts } from '../../../artifacts/staging.ts';
import { defined } from '../../../defined.ts';
import type { Engine } from '../../../engine.ts';
import { KilnError } from '../../../errors.ts';
import { KILN_VERSION } from '../../../host/state/paths.ts';
import { readContents } from '../../../image/store/manifest.ts';
import { sha256Of } from '../../../packages/repository/cache.ts';
import type { LockedPackage } from '../../../packages/repository/lock/lock.ts';
import { lengthOf } from '../../run/timeline.ts';
import type { BuildReport, Built, BuiltPackage } from '../outcome/report.ts';
import type { BuildRequest } from '../request.ts';
import { rpmPurl, SBOM_FILE, spdxDocument } from './spdx.ts';
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

const CHECKSUMS_FILE = 'SHA256SUMS';

/** Files that only a build that succeeded has. */
export const PROVENANCE_FILES = [SBOM_FILE, STATEMENT_FILE, ENVELOPE_FILE, CHECKSUMS_FILE];

const BYPRODUCTS = [
  ...['build.log', 'root.log', 'state.log', 'hw_info.log', 'installed_pkgs.log'],
  ...['lock.json', 'buildroot_lock.json', 'result.json'],
];

/**
 * Puts SBOM, provenance and SHA256SUMS into the result directory of a successful build, as the last files there.
 * @throws KilnError E_PROVENANCE_KEY, E_RESULTDIR
 */
export async function writeProvenance(engine: Engine, report: BuildReport): Promise<void> {
  const { image, resultDirectory, request } = report;
  if (image === undefined) return;
  const { builderId: builder, sourceDateEpoch } = request;
  const key = await signingKey(request);
  const { packages: root } = await readContents(engine.paths, image.id);
  const there = BYPRODUCTS.filter((name) => existsSync(join(resultDirectory, name)));
  const byproducts = await digestFiles(resultDirectory, there);
  const { path, spec } = request.source;
  const sha256 = report.sourceDigest?.slice(7) ?? (await sha256Of(path));
  const sources = [{ name: basename(path), sha256 }];
  if (spec !== undefined) sources.push({ name: basename(spec), sha256: await sha256Of(spec) });
  const attestations = attestBuild({
    ...{ report, root, sources, byproducts, key, kiln: KILN_VERSION },
    ...defined({ builder, sourceDateEpoch }),
  });
  const manifest = checksumManifest([
    ...builtPackages(report).map(({ file, sha256 }) => ({ path: file, sha256 })),
    ...byproducts,
    ...attestations.map(({ name, content }) => ({
      path: name,
      sha256: hash('sha256', content, 'hex'),
    })),
  ]);
  const files = [...attestations, { name: CHECKSUMS_FILE, content: manifest }];
  await writeTexts(resultDirectory, files, request.caller);
}

export async function signingKey({ provenanceKey }: BuildRequest): Promise<SigningKey | undefined> {
  return provenanceKey === undefined ? undefined : await readSigningKey(provenanceKey);
}

export function builtPackages({ packages, sourcePackage }: Built): BuiltPackage[] {
  return sourcePackage === undefined ? [...packages] : [...packages, sourcePackage];
}

export interface AttestInput {
  readonly builder?: string;
  readonly sourceDateEpoch?: number;
  readonly report: BuildReport;
  readonly root: readonly LockedPackage[];
  readonly sources: readonly { readonly name: string; readonly sha256: string }[];
  readonly byproducts: readonly DigestedFile[];
  readonly kiln: string;
  readonly key?: SigningKey | undefined;
}

export function attestBuild(input: AttestInput): TextFile[] {
  const { report, root, sourceDateEpoch } = input;
  const { image, base, request } = report;
  const { worker } = request;
  if (image === undefined) throw new TypeError('a build that went well has an image');
  const finished = new Date(report.started.getTime() + lengthOf(report.phases));
  const time = (date: Date) =>
    sourceDateEpoch === undefined ? date : new Date(sourceDateEpoch * 1000);
  const built = builtPackages(report);
  const sbom = spdxDocument({
    name: (report.sourcePackage?.nevra ?? report.name).replace(/\.(no)?src$/, ''),
    created: time(finished),
    kiln: input.kiln,
    built,
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
    materials: [...input.sources.map(fileResource), ...root.map(rootResource)],
    // Logs have times in them.
    byproducts:
      sourceDateEpoch === undefined
        ? input.byproducts.map(({ path, sha256 }) => fileResource({ name: path, sha256 }))
        : [],
    builder: input.builder,
    kiln: input.kiln,
    invocation: sourceDateEpoch === undefined ? (report.sandbox ?? '') : image.id,
    started: time(report.started),
    finished: time(finished),
  });
  const files = [
    { name: SBOM_FILE, content: sbom },
    { name: STATEMENT_FILE, content: statement },
  ];
  if (input.key === undefined) return files;
  return [...files, { name: ENVELOPE_FILE, content: signedEnvelope(statement, input.key) }];
}

function fileResource({ name, sha256 }: { name: string; sha256: string }): Resource {
  return { name: name.toWellFormed(), digest: { sha256 } };
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

interface DigestedFile {
  readonly path: string;
  readonly sha256: string;
}

export async function digestFiles(
  directory: string,
  paths: readonly string[],
): Promise<DigestedFile[]> {
  const digested: DigestedFile[] = [];
  for (const path of paths) {
    try {
      digested.push({ path, sha256: await sha256Of(join(directory, path)) });
    } catch (cause) {
      throw new KilnError('E_RESULTDIR', `${directory}/${path} cannot be read`, {
        cause,
        hint: 'nothing else may write to the result folder of a build that runs',
      });
    }
  }
  return digested;
}

/**
 * The manifest that `sha256sum -c SHA256SUMS` accepts in the result directory: one line a file,
 * sorted by the bytes of the names. Source of the format: coreutils' manual, "md5sum invocation".
 */
export function checksumManifest(files: readonly DigestedFile[]): Buffer {
  const lines = files
    .map(({ path, sha256 }) => ({ name: Buffer.from(path), sha256 }))
    .sort((a, b) => Buffer.compare(a.name, b.name))
    .map(({ name, sha256 }) => line(name, sha256));
  return Buffer.concat(lines);
}

const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '\n': '\\n', '\r': '\\r' };

/** A name that would break the line is escaped, and a backslash at the line's start says so. */
function line(name: Buffer, sha256: string): Buffer {
  const raw = name.toString('latin1');
  const escaped = raw.replace(/[\\\n\r]/g, (character) => ESCAPES[character] ?? character);
  const mark = escaped === raw ? '' : '\\';
  return Buffer.from(`${mark}${sha256}  ${escaped}\n`, 'latin1');
}
