/** Asks confined children about repomd.xml, metalinks and signatures, and checks what they say. */
import { z } from 'zod';
import { isKilnCode, KilnError } from '../../../errors.ts';
import { fileError } from '../../../host/confine/frame.ts';
import { askConfined, FAULTS_OF_A_FILE } from '../../../host/confine/run.ts';
import type { SignatureInput } from '../trust/signature-task.ts';
import { COMPRESSIONS } from './repomd.ts';

const metadataFileSchema = z.strictObject({
  type: z.string().max(64),
  location: z.string().max(4096),
  compression: z.enum(COMPRESSIONS),
  digest: z.string(),
  /** Bytes as compressed, if repomd.xml says it. */
  size: z.int().min(0).optional(),
  openDigest: z.string().optional(),
  openSize: z.int().min(0).optional(),
});
export type MetadataFile = z.output<typeof metadataFileSchema>;

export const repomdSchema = z.strictObject({
  primary: metadataFileSchema,
  filelists: metadataFileSchema.optional(),
  group: metadataFileSchema.optional(),
  modules: metadataFileSchema.optional(),
});
export type Repomd = z.output<typeof repomdSchema>;

const groupPackageSchema = z.strictObject({
  name: z.string(),
  type: z.enum(['mandatory', 'default', 'optional', 'conditional']),
  requires: z.string().optional(),
});
export type GroupPackage = z.output<typeof groupPackageSchema>;

export const groupSchema = z.strictObject({
  kind: z.enum(['group', 'environment']),
  id: z.string(),
  name: z.string(),
  packages: z.array(groupPackageSchema),
  groups: z.array(z.string()),
});
export type Group = z.output<typeof groupSchema>;

const metalinkSchema = z.strictObject({
  mirrors: z.array(z.string().max(4096)).max(10_000),
  /** Digests of the repomd.xml files that may be served: the newest and a few before it. */
  repomds: z.array(z.string()),
});
export type Metalink = z.output<typeof metalinkSchema>;

export interface IndexInput {
  readonly kind: 'metalink' | 'repomd';
  readonly text: string;
}

/** The limits for documents of a few MiB: a document that needs more is hostile. */
const LIMITS = { memory: 1 << 30, cpuSeconds: 30, wallMs: 60_000, fileSize: 0 };

const SCHEMAS = { metalink: metalinkSchema, repomd: repomdSchema };

/** @param repository its id, for messages */
export async function readIndex<Kind extends keyof typeof SCHEMAS>(
  kind: Kind,
  repository: string,
  content: Buffer,
  signal: AbortSignal | undefined,
): Promise<z.output<(typeof SCHEMAS)[Kind]>> {
  const input: IndexInput = { kind, text: content.toString('utf8') };
  const validate = (value: unknown) =>
    SCHEMAS[kind].parse(value) as z.output<(typeof SCHEMAS)[Kind]>;
  try {
    return await askConfined({ task: 'repository-index', input, validate, limits: LIMITS, signal });
  } catch (cause) {
    if (!(cause instanceof KilnError) || signal?.aborted) throw cause;
    throw metadataFileError(repository, kind === 'repomd' ? 'repomd.xml' : 'its metalink', cause);
  }
}

/** Errors of the metadata's name the file, but what a child died of does not. */
export function metadataFileError(repository: string, file: string, error: KilnError): KilnError {
  const ended = isKilnCode(error, ...FAULTS_OF_A_FILE);
  return fileError(`repository ${repository}${ended ? `: ${file}` : ''}`, error);
}

export async function verifyRepomd(
  repository: string,
  content: Buffer,
  signature: Buffer,
  keys: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  const armored = signature.toString('latin1').trimStart();
  const input: SignatureInput = {
    keys,
    content: content.toString('base64'),
    signature: armored.startsWith('-----BEGIN') ? armored : signature.toString('base64'),
  };
  const validate = (value: unknown) => z.string().max(4096).parse(value);
  const task = 'repository-signature';
  const asked = askConfined({ task, input, validate, limits: LIMITS, signal });
  const verdict = await asked.catch((cause: unknown) => {
    if (!(cause instanceof KilnError) || signal?.aborted) throw cause;
    throw metadataFileError(repository, 'repomd.xml.asc', cause);
  });
  if (verdict === 'ok') return;
  throw new KilnError(
    'E_REPOSITORY_SIGNATURE',
    `repository ${repository}: repomd.xml is not signed by a trusted key: ${verdict}`,
    { hint: 'if the distribution changed its key, add the new one to gpgkey' },
  );
}
