import { KilnError } from '../../errors.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import type { ReadResult } from '../../packages/rpm/read.ts';
import { ARMORED_KEY } from '../../packages/rpm/signature/keyring.ts';

/** The most bytes of a file with keys: those of a whole distribution are smaller. */
const MAX_KEYRING = 16 * 2 ** 20;

/** All results in the order of the files. */
export async function inOrder<Read>(
  reading: AsyncIterable<ReadResult<Read>>,
): Promise<ReadResult<Read>[]> {
  const results: ReadResult<Read>[] = [];
  for await (const result of reading) results[result.index] = result;
  return results;
}

/** The texts of the files given with --keyring. @throws KilnError E_KEYRING. */
export function readKeyrings(files: readonly string[]): string[] {
  return files.map((file) => {
    const hint = `--keyring names a file with armored OpenPGP keys: it begins with ${ARMORED_KEY}`;
    let text: string;
    try {
      text = readUserFile(file, MAX_KEYRING, 'anything').toString('utf8');
    } catch (cause) {
      throw new KilnError('E_KEYRING', `the keyring ${file} cannot be read`, { hint, cause });
    }
    if (text.includes(ARMORED_KEY)) return text;
    throw new KilnError('E_KEYRING', `the keyring ${file} holds no armored public key`, { hint });
  });
}

/** For a repeatable option of commander. */
export function collect(value: string, before: readonly string[] = []): string[] {
  return [...before, value];
}

/** A failed file in --json output. */
export function errorJson(file: string, error: KilnError) {
  return { file, error: { code: error.code, message: error.message, hint: error.hint ?? null } };
}
