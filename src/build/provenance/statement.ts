import { basename } from 'node:path';
import type { Repository } from '../../repository/configuration.ts';
import type { BuildRequest } from '../request.ts';

/**
 * The part of a request that decides what comes out of a build, for others to read: paths of this
 * host and credentials are left out.
 */
export function externalParameters(request: BuildRequest): Record<string, unknown> {
  const { source, network, shortCircuit, nocheck, target } = request;
  return {
    image: nameOf(request.image),
    source: { kind: source.kind, name: basename(source.path) },
    defines: request.defines ?? [],
    with: request.with ?? [],
    without: request.without ?? [],
    rpmbuildOptions: request.rpmbuildOptions ?? [],
    additionalPackages: request.additionalPackages ?? [],
    repositories: (request.repositories ?? []).map(repositoryParameters),
    network: network?.phases ?? [],
    ...(target === undefined ? {} : { target }),
    ...(nocheck === true ? { nocheck } : {}),
    ...(shortCircuit === undefined ? {} : { shortCircuit }),
  };
}

/** A recipe's or lock's path says where it lies on this host; its name is enough. */
function nameOf(image: string): string {
  return image.includes('/') ? basename(image) : image;
}

function repositoryParameters({ id, source, gpgcheck }: Repository) {
  const { kind } = source;
  const where = kind === 'directory' ? [] : kind === 'baseurl' ? source.urls : [source.url];
  return { id, kind, gpgcheck, urls: where.map(withoutCredentials) };
}

function withoutCredentials(url: string): string {
  const parsed = new URL(url);
  parsed.username = '';
  parsed.password = '';
  return parsed.href;
}

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

interface StatementInput {
  /** What was made. */
  readonly subjects: readonly { readonly name: string; readonly sha256: string }[];
  /** What the caller asked for. */
  readonly external: Readonly<Record<string, unknown>>;
  /** What the builder chose by itself. */
  readonly internal: Readonly<Record<string, unknown>>;
  readonly materials: readonly Resource[];
  readonly byproducts: readonly Resource[];
  readonly builder: string | undefined;
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
