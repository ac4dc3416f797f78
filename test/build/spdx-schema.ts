/**
 * The constraints of SPDX 2.3's JSON schema (spdx-spec, schemas/spdx-schema.json) on the parts of a
 * document that kiln writes, in our words: where that schema allows more fields than kiln has a use
 * for, this allows fewer; what it requires, this requires.
 */
const text = { type: 'string' };
const id = { type: 'string', pattern: '^SPDXRef-[a-zA-Z0-9.-]+$' };
const time = { type: 'string', pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ$' };

/** An object with these fields and no others. */
function fields(properties: Readonly<Record<string, unknown>>, optional: readonly string[] = []) {
  const required = Object.keys(properties).filter((name) => !optional.includes(name));
  return { type: 'object', properties, required, additionalProperties: false };
}

const list = (items: unknown, minItems = 0) => ({ type: 'array', items, minItems });

const checksum = fields({
  algorithm: { enum: ['SHA1', 'SHA224', 'SHA256', 'SHA384', 'SHA512', 'MD5'] },
  checksumValue: { type: 'string', pattern: '^[0-9a-f]+$' },
});

const reference = fields({
  referenceCategory: { enum: ['OTHER', 'PERSISTENT-ID', 'SECURITY', 'PACKAGE-MANAGER'] },
  // "no spaces"
  referenceLocator: { type: 'string', pattern: '^\\S+$' },
  referenceType: { type: 'string', pattern: '^\\S+$' },
});

const described = fields(
  {
    ...{ SPDXID: id, name: text, downloadLocation: text, versionInfo: text },
    ...{ packageFileName: text, homepage: text, summary: text, comment: text },
    // The clause on suppliers: a person, an organization, or no word of it.
    supplier: { type: 'string', pattern: '^(Person: .|Organization: .|NOASSERTION$)' },
    filesAnalyzed: { type: 'boolean' },
    licenseDeclared: text,
    checksums: list(checksum),
    externalRefs: list(reference),
    primaryPackagePurpose: {
      enum: [
        ...['OTHER', 'INSTALL', 'ARCHIVE', 'FIRMWARE', 'APPLICATION', 'FRAMEWORK', 'LIBRARY'],
        ...['CONTAINER', 'SOURCE', 'DEVICE', 'OPERATING-SYSTEM', 'FILE'],
      ],
    },
  },
  [
    ...['versionInfo', 'packageFileName', 'homepage', 'summary', 'comment', 'supplier'],
    ...['filesAnalyzed', 'licenseDeclared', 'checksums', 'externalRefs', 'primaryPackagePurpose'],
  ],
);

const relationship = fields({
  spdxElementId: text,
  relatedSpdxElement: text,
  relationshipType: { enum: ['DESCRIBES', 'GENERATED_FROM', 'BUILD_DEPENDENCY_OF', 'CONTAINS'] },
});

const license = fields(
  {
    licenseId: { type: 'string', pattern: '^LicenseRef-[a-zA-Z0-9.-]+$' },
    ...{ extractedText: text, name: text, comment: text },
  },
  ['name', 'comment'],
);

/** JSON Schema (2020-12) of a document. */
export const spdxSchema = fields(
  {
    spdxVersion: { const: 'SPDX-2.3' },
    dataLicense: { const: 'CC0-1.0' },
    SPDXID: { const: 'SPDXRef-DOCUMENT' },
    name: text,
    documentNamespace: { type: 'string', pattern: '^https://[^#]+$' },
    creationInfo: fields({ created: time, creators: list(text, 1) }),
    packages: list(described),
    relationships: list(relationship),
    hasExtractedLicensingInfos: list(license),
  },
  ['hasExtractedLicensingInfos'],
);
