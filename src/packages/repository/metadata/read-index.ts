import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { runConfined } from '../../../host/confine/run.ts';
import { type Metalink, metalinkSchema, type Repomd, repomdSchema } from './repomd.ts';

/** The limits for documents of a few MiB: a document that needs more is hostile. */
const LIMITS = { memory: 1 << 30, cpuSeconds: 30, wallMs: 60_000, fileSize: 0 };

/** @param repository its id, for messages */
export function readMetalink(
  repository: string,
  content: Buffer,
  signal?: AbortSignal,
): Promise<Metalink> {
  return readIndex('metalink', repository, content, (value) => metalinkSchema.parse(value), signal);
}

/** @param repository its id, for messages */
export function readRepomd(
  repository: string,
  content: Buffer,
  signal?: AbortSignal,
): Promise<Repomd> {
  return readIndex('repomd', repository, content, (value) => repomdSchema.parse(value), signal);
}

async function readIndex<Output>(
  kind: 'metalink' | 'repomd',
  repository: string,
  content: Buffer,
  validate: (value: unknown) => Output,
  signal: AbortSignal | undefined,
): Promise<Output> {
  const input = { kind, text: content.toString('utf8') };
  const task = 'repository-index';
  const results = runConfined({ task, input, validate, limits: LIMITS, signal });
  try {
    for await (const result of results) return result;
  } catch (cause) {
    if (!(cause instanceof KilnError) || signal?.aborted) throw cause;
    const { code, message, hint } = cause;
    throw new KilnError(code, `repository ${repository}: ${message}`, { cause, hint });
  }
  throw new KilnError(
    'E_REPOSITORY_METADATA',
    `repository ${repository}: its ${kind} was not read`,
    {
      hint: 'this is a bug in kiln: please report it with the address of the repository',
    },
  );
}

export async function verifyRepomd(
  repository: string,
  content: Buffer,
  signature: Buffer,
  keys: readonly string[],
  signal?: AbortSignal,
): Promise<void> {
  const armored = signature.toString('latin1').trimStart();
  const input = {
    keys,
    content: content.toString('base64'),
    signature: armored.startsWith('-----BEGIN') ? armored : signature.toString('base64'),
  };
  let verdict = 'it was not checked';
  const validate = (value: unknown) => z.string().max(4096).parse(value);
  const task = 'repository-signature';
  const verdicts = runConfined({ task, input, validate, limits: LIMITS, signal });
  for await (const said of verdicts) verdict = said;
  if (verdict === 'ok') return;
  throw new KilnError(
    'E_REPOSITORY_SIGNATURE',
    `repository ${repository}: repomd.xml is not signed by a trusted key: ${verdict}`,
    { hint: 'if the distribution changed its key, add the new one to gpgkey' },
  );
}
