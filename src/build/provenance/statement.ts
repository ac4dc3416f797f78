/** The name of the provenance in a result directory. */
export const STATEMENT_FILE = 'provenance.json';

/** What `builder.id` is unless the caller has a name for the builder: it claims nothing. */
const LOCAL_BUILDER = 'https://kiln.invalid/builder/local';

/** Names the meaning of the parameters below; docs/provenance.md describes it. */
const BUILD_TYPE = 'https://kiln.invalid/build-types/rpm/v1';

/** A thing that went in or came out, as in-toto's ResourceDescriptor. */
export interface Resource {
  readonly name?: string;
  readonly uri?: string;
  /** Algorithm to lower-case hex. */
  readonly digest?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, unknown>>;
}

/** What a statement says. */
export interface StatementInput {
  /** What was made. */
  readonly subjects: readonly { readonly name: string; readonly sha256: string }[];
  /** What the caller asked for. */
  readonly external: Readonly<Record<string, unknown>>;
  /** What the builder chose by itself. */
  readonly internal: Readonly<Record<string, unknown>>;
  readonly materials: readonly Resource[];
  readonly byproducts: readonly Resource[];
  readonly builder: string | undefined;
  /** Version of kiln. */
  readonly kiln: string;
  readonly invocation: string;
  readonly started: Date;
  readonly finished: Date;
}

/**
 * An in-toto Statement v1 with a SLSA provenance v1 predicate, as JSON. Equal input gives equal
 * bytes. Source: in-toto attestation framework, spec/v1/statement.md; slsa.dev/spec/v1.0/provenance.
 */
export function provenanceStatement(input: StatementInput): string {
  const statement = {
    _type: 'https://in-toto.io/Statement/v1',
    subject: [...input.subjects]
      .sort((a, b) => compare(a.name, b.name))
      .map(({ name, sha256 }) => ({ name, digest: { sha256 } })),
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: input.external,
        internalParameters: input.internal,
        resolvedDependencies: sorted(input.materials),
      },
      runDetails: {
        builder: { id: input.builder ?? LOCAL_BUILDER, version: { kiln: input.kiln } },
        metadata: {
          invocationId: input.invocation,
          startedOn: input.started.toISOString(),
          finishedOn: input.finished.toISOString(),
        },
        byproducts: sorted(input.byproducts),
      },
    },
  };
  return `${JSON.stringify(statement, undefined, 2)}\n`;
}

function sorted(resources: readonly Resource[]): Resource[] {
  const key = ({ name = '', uri = '' }: Resource) => `${uri}\n${name}`;
  return [...resources].sort((a, b) => compare(key(a), key(b)));
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
