import { createPrivateKey, createPublicKey, hash, type KeyObject, sign } from 'node:crypto';
import { basename } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { readUserFile } from '../../../host/files/user-file.ts';
import type { Repository } from '../../../packages/repository/configuration.ts';
import { withoutCredentials } from '../../../packages/repository/transport/location.ts';
import type { BuildRequest } from '../request.ts';
import { compare } from './spdx.ts';

/** The part of a request that decides what comes out of a build, without paths of this host and credentials. */
export function externalParameters(request: BuildRequest): Record<string, unknown> {
  const { source, networkPhases, shortCircuit, nocheck, target } = request;
  return {
    image: basename(request.image),
    source: { kind: source.kind, name: basename(source.path) },
    defines: request.defines ?? [],
    with: request.with ?? [],
    without: request.without ?? [],
    rpmbuildOptions: request.rpmbuildOptions ?? [],
    additionalPackages: request.packages ?? [],
    repositories: (request.repositories ?? []).map(repositoryParameters),
    network: networkPhases ?? [],
    target,
    ...(nocheck === true ? { nocheck } : {}),
    shortCircuit,
  };
}

function repositoryParameters({ id, source, gpgcheck }: Repository) {
  const { kind } = source;
  const where = kind === 'directory' ? [] : kind === 'baseurl' ? source.urls : [source.url];
  return { id, kind, gpgcheck, urls: where.map(withoutCredentials) };
}

export const STATEMENT_FILE = 'provenance.json';

/** What `builder.id` is unless the caller has a name for the builder: it promises nothing. */
const LOCAL_BUILDER = 'https://kiln.invalid/builder/local';

const BUILD_TYPE = 'https://kiln.invalid/build-types/rpm/v1';

export interface Resource {
  readonly name?: string;
  readonly uri?: string;
  readonly digest?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, unknown>>;
}

interface StatementInput {
  readonly subjects: readonly { readonly name: string; readonly sha256: string }[];
  readonly external: Readonly<Record<string, unknown>>;
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

export interface SigningKey {
  /** sha256 of the public key (SubjectPublicKeyInfo, DER), hex: what verifiers look it up by. */
  readonly keyId: string;
  sign(message: Buffer): Buffer;
}

const MAX_KEY = 64 * 1024;

/** Digests that belong to the curves; ed25519 has its own. */
const EC_DIGESTS: Readonly<Record<string, string>> = {
  prime256v1: 'sha256',
  secp384r1: 'sha384',
  secp521r1: 'sha512',
};

/**
 * Reads a private key: PEM, ed25519 or ECDSA on P-256, P-384 or P-521, as
 * `openssl genpkey -algorithm ed25519` writes it.
 * @throws KilnError E_PROVENANCE_KEY
 */
export async function readSigningKey(path: string): Promise<SigningKey> {
  let key: KeyObject;
  try {
    key = createPrivateKey(readUserFile(path, MAX_KEY, 'anything'));
  } catch (cause) {
    throw new KilnError('E_PROVENANCE_KEY', `${path} is not a readable private key`, {
      cause,
      hint: '`openssl genpkey -algorithm ed25519` makes one; it must not have a passphrase',
    });
  }
  const digest = digestFor(key);
  if (digest === undefined) {
    throw new KilnError('E_PROVENANCE_KEY', `${path} is a key of the wrong kind`, {
      hint: 'ed25519, or ECDSA on P-256, P-384 or P-521: `openssl genpkey -algorithm ed25519`',
    });
  }
  const spki = createPublicKey(key).export({ type: 'spki', format: 'der' });
  return {
    keyId: hash('sha256', spki, 'hex'),
    sign: (message) => sign(digest, message, key),
  };
}

/** Null for an algorithm that hashes by itself; undefined for a key of the wrong kind. */
function digestFor(key: KeyObject): string | null | undefined {
  if (key.asymmetricKeyType === 'ed25519') return null;
  if (key.asymmetricKeyType !== 'ec') return undefined;
  return EC_DIGESTS[key.asymmetricKeyDetails?.namedCurve ?? ''];
}

export const ENVELOPE_FILE = 'provenance.intoto.jsonl';

const PAYLOAD_TYPE = 'application/vnd.in-toto+json';

/**
 * A statement in a signed DSSE envelope, on one line. Source: the DSSE specification 1.0.2
 * (protocol.md, envelope.md), in-toto's envelope for attestations.
 */
export function signedEnvelope(statement: string, key: SigningKey): string {
  const payload = Buffer.from(statement);
  const signature = key.sign(preAuthEncoding(payload));
  const envelope = {
    payload: payload.toString('base64'),
    payloadType: PAYLOAD_TYPE,
    signatures: [{ keyid: key.keyId, sig: signature.toString('base64') }],
  };
  return `${JSON.stringify(envelope)}\n`;
}

/** DSSE's PAE: what is signed. Lengths are in bytes. */
function preAuthEncoding(payload: Buffer): Buffer {
  const head = `DSSEv1 ${Buffer.byteLength(PAYLOAD_TYPE)} ${PAYLOAD_TYPE} ${payload.length} `;
  return Buffer.concat([Buffer.from(head), payload]);
}
