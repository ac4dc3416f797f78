import { hash } from 'node:crypto';
import parse from 'spdx-expression-parse';
import { attempt } from '../../../host/calls/libc.ts';
import { formatEvr } from '../../../packages/rpm/dependency.ts';
import type { RpmEvr } from '../../../packages/rpm/package.ts';
import type { BuiltPackage } from '../outcome/report.ts';

const NO_ASSERTION = 'NOASSERTION';

interface SpdxLicense {
  /** An SPDX license expression (annex D of SPDX 2.3), or NOASSERTION. */
  readonly expression: string;
  readonly extracted?: { readonly licenseId: string; readonly extractedText: string };
}

/**
 * A package's License tag in an SPDX document. Fedora's and openSUSE's are SPDX expressions; other tags name
 * licenses in their own ways and are kept word by word behind a LicenseRef.
 */
export function spdxLicense(tag: string): SpdxLicense {
  const text = tag.toWellFormed().trim();
  if (text === '') return { expression: NO_ASSERTION };
  if (isExpression(text)) return { expression: text };
  const licenseId = `LicenseRef-kiln-${hash('sha256', text, 'hex').slice(0, 16)}`;
  return { expression: licenseId, extracted: { licenseId, extractedText: text } };
}

/** A longer text is not an expression that a person wrote, and the parser recurses. */
const LONGEST = 2000;

function isExpression(text: string): boolean {
  // A reference must lead to a text in the document, and the tag has none.
  if (text.length > LONGEST || /LicenseRef-|DocumentRef-/.test(text)) return false;
  return attempt(() => parse(text)) !== undefined;
}

interface PackageVersion extends RpmEvr {
  readonly name: string;
  readonly arch: string;
}

/**
 * The package URL of an RPM: `pkg:rpm/zlib@1.3.1-4?arch=x86_64&epoch=1`. Without a namespace, which
 * would be the distribution's name: a lock does not say it. Source: purl-spec, type `rpm`.
 */
export function rpmPurl({ name, epoch, version, release, arch }: PackageVersion): string {
  const qualifiers = [`arch=${encode(arch)}`, ...(epoch ? [`epoch=${epoch}`] : [])];
  return `pkg:rpm/${encode(name)}@${encode(`${version}-${release}`)}?${qualifiers.join('&')}`;
}

function encode(text: string): string {
  return encodeURIComponent(text.toWellFormed());
}

export const SBOM_FILE = 'sbom.spdx.json';

interface RootPackage extends PackageVersion {
  readonly digest: string;
}

interface SbomInput {
  readonly name: string;
  readonly created: Date;
  readonly kiln: string;
  readonly built: readonly BuiltPackage[];
  readonly root: { readonly name: string; readonly id: string };
  readonly rootPackages: readonly RootPackage[];
}

const ROOT_ID = 'SPDXRef-BuildRoot';

/**
 * An SPDX 2.3 document in JSON of the packages a build made and of the build root they were made
 * in. Equal input gives equal bytes. Source: the SPDX 2.3 specification, and its JSON schema.
 */
export function spdxDocument(input: SbomInput): string {
  const built = identified(input.built, builtId);
  const root = identified(input.rootPackages, rootId);
  const licenses = built.flatMap(
    ({ entry }) => spdxLicense(entry.identity.license).extracted ?? [],
  );
  const byId = new Map(licenses.map((license) => [license.licenseId, license]));
  const extracted = [...byId.values()].sort((a, b) => compare(a.licenseId, b.licenseId));
  const content = {
    spdxVersion: 'SPDX-2.3',
    dataLicense: 'CC0-1.0',
    SPDXID: 'SPDXRef-DOCUMENT',
    name: input.name,
    creationInfo: {
      created: `${input.created.toISOString().slice(0, 19)}Z`,
      creators: [`Tool: kiln-${input.kiln}`],
    },
    packages: [
      ...built.map(({ entry, id }) => builtPackage(entry, id)),
      rootImage(input),
      ...root.map(({ entry, id }) => rootPackage(entry, id)),
    ],
    ...(extracted.length === 0 ? {} : { hasExtractedLicensingInfos: extracted }),
    relationships: relationships(built, root),
  };
  const digest = hash('sha256', JSON.stringify(content), 'hex');
  const documentNamespace = `https://kiln.invalid/spdx/${encodeURIComponent(input.name)}-${digest}`;
  return `${JSON.stringify({ ...content, documentNamespace }, undefined, 2)}\n`;
}

function identified<Entry>(entries: readonly Entry[], idOf: (entry: Entry) => string) {
  return entries.map((entry) => ({ entry, id: idOf(entry) })).sort((a, b) => compare(a.id, b.id));
}

function relationships(
  built: readonly { readonly entry: BuiltPackage; readonly id: string }[],
  root: readonly { readonly id: string }[],
) {
  const relate = (spdxElementId: string, relationshipType: string, relatedSpdxElement: string) => ({
    spdxElementId,
    relationshipType,
    relatedSpdxElement,
  });
  const sources = built.filter(({ entry }) => entry.isSource);
  const binaries = built.filter(({ entry }) => !entry.isSource);
  return [
    ...built.map(({ id }) => relate('SPDXRef-DOCUMENT', 'DESCRIBES', id)),
    ...binaries.flatMap(({ id }) =>
      sources.map((source) => relate(id, 'GENERATED_FROM', source.id)),
    ),
    ...binaries.map(({ id }) => relate(ROOT_ID, 'BUILD_DEPENDENCY_OF', id)),
    ...root.map(({ id }) => relate(ROOT_ID, 'CONTAINS', id)),
  ];
}

function builtPackage({ file, sha256, isSource, identity }: BuiltPackage, id: string) {
  const { vendor, url, summary, license } = identity;
  return {
    SPDXID: id,
    ...common(identity),
    packageFileName: file.toWellFormed(),
    ...(vendor === '' ? {} : { supplier: `Organization: ${vendor.toWellFormed()}` }),
    ...(/^https?:\/\/\S+$/.test(url) && URL.canParse(url) ? { homepage: url } : {}),
    ...(summary === '' ? {} : { summary: summary.toWellFormed() }),
    checksums: [{ algorithm: 'SHA256', checksumValue: sha256 }],
    licenseDeclared: spdxLicense(license).expression,
    primaryPackagePurpose: isSource ? 'SOURCE' : 'INSTALL',
  };
}

function rootPackage(entry: RootPackage, id: string) {
  const [algorithm = '', checksumValue = ''] = entry.digest.split(':');
  return {
    SPDXID: id,
    ...common(entry),
    checksums: [{ algorithm: algorithm.toUpperCase(), checksumValue }],
    primaryPackagePurpose: 'INSTALL',
  };
}

function common(entry: PackageVersion) {
  return {
    name: entry.name.toWellFormed(),
    versionInfo: formatEvr({ ...entry, epoch: entry.epoch || null }).toWellFormed(),
    downloadLocation: NO_ASSERTION,
    filesAnalyzed: false,
    externalRefs: [
      {
        referenceCategory: 'PACKAGE-MANAGER',
        referenceType: 'purl',
        referenceLocator: rpmPurl(entry),
      },
    ],
  };
}

function rootImage({ root }: SbomInput) {
  return {
    SPDXID: ROOT_ID,
    name: root.name,
    versionInfo: root.id,
    downloadLocation: NO_ASSERTION,
    filesAnalyzed: false,
    comment: 'The image in which the packages were built',
    primaryPackagePurpose: 'CONTAINER',
  };
}

/** Letters, digits, `.` and `-` only (SPDX 2.3, 7.2). */
function builtId({ file, sha256 }: BuiltPackage): string {
  return `SPDXRef-Built-${file.replace(/[^A-Za-z0-9.-]/g, '-')}-${sha256.slice(0, 12)}`;
}

function rootId({ name, arch, digest }: RootPackage): string {
  const short = digest.slice(digest.indexOf(':') + 1).slice(0, 12);
  return `SPDXRef-Root-${`${name}-${arch}`.replace(/[^A-Za-z0-9.-]/g, '-')}-${short}`;
}

export function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
