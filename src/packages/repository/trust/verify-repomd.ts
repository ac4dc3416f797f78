import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { runConfined } from '../../../host/confine/run.ts';

const LIMITS = { memory: 1 << 30, cpuSeconds: 30, wallMs: 60_000, fileSize: 0 };

/**
 * Checks that one of `keys` signed repomd.xml.
 * @throws KilnError E_REPOSITORY_SIGNATURE
 */
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
  const verdicts = runConfined({
    task: 'repository-signature',
    input,
    validate,
    limits: LIMITS,
    signal,
  });
  for await (const said of verdicts) verdict = said;
  if (verdict === 'ok') return;
  throw new KilnError(
    'E_REPOSITORY_SIGNATURE',
    `repository ${repository}: repomd.xml is not signed by a trusted key: ${verdict}`,
    { hint: 'if the distribution changed its key, add the new one to gpgkey' },
  );
}
