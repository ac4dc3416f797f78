import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { basename } from 'node:path';
import { KilnError } from '../../errors.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import type { Repository } from '../../packages/repository/configuration.ts';
import { withoutCredentials } from '../../packages/repository/transport/mirrors.ts';
import type { BuildRequest } from '../rpmbuild/request.ts';

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
    target,
    ...(nocheck === true ? { nocheck } : {}),
    shortCircuit,
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

/** A private key that signs provenance. */
export interface SigningKey {
  /** sha256 of the public key (SubjectPublicKeyInfo, DER), hex: what verifiers look it up by. */
  readonly keyId: string;
  sign(message: Buffer): Buffer;
}

/** Bytes of a file with one key. */
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
    keyId: createHash('sha256').update(spki).digest('hex'),
    sign: (message) => sign(digest, message, key),
  };
}

/** Null for an algorithm that hashes by itself; undefined for one that is not taken. */
function digestFor(key: KeyObject): string | null | undefined {
  if (key.asymmetricKeyType === 'ed25519') return null;
  if (key.asymmetricKeyType !== 'ec') return undefined;
  return EC_DIGESTS[key.asymmetricKeyDetails?.namedCurve ?? ''];
}

/** The name of the signed provenance in a result directory. */
export const ENVELOPE_FILE = 'provenance.intoto.jsonl';

/** The media type of an in-toto Statement. */
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
