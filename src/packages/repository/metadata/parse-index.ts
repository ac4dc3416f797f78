import { KilnError } from '../../../errors.ts';
import { runConfined } from '../../../host/confine/run.ts';
import { type Metalink, metalinkSchema } from '../transport/metalink.ts';
import { type Repomd, repomdSchema } from './repomd.ts';

/** The limits for documents of a few MiB: a document that needs more is hostile. */
const LIMITS = { memory: 1 << 30, cpuSeconds: 30, wallMs: 60_000, fileSize: 0 };

/** Reads a metalink in a confined child. @throws KilnError E_REPOSITORY_METADATA */
export function readMetalink(content: Buffer, signal?: AbortSignal): Promise<Metalink> {
  return readIndex('metalink', content, (value) => metalinkSchema.parse(value), signal);
}

/** Reads a repomd.xml in a confined child. @throws KilnError E_REPOSITORY_METADATA */
export function readRepomd(content: Buffer, signal?: AbortSignal): Promise<Repomd> {
  return readIndex('repomd', content, (value) => repomdSchema.parse(value), signal);
}

async function readIndex<Output>(
  kind: 'metalink' | 'repomd',
  content: Buffer,
  validate: (value: unknown) => Output,
  signal: AbortSignal | undefined,
): Promise<Output> {
  const input = { kind, text: content.toString('utf8') };
  const results = runConfined({
    task: 'repository-index',
    input,
    validate,
    limits: LIMITS,
    signal,
  });
  for await (const result of results) return result;
  throw new KilnError('E_REPOSITORY_METADATA', `the ${kind} was not read`);
}
