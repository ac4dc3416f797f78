import { readFileSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { type ReadOptions, type ReadResult, readRpms } from '../../rpm/read.ts';

/** Reads all files, in the order they were given. */
export async function readAll(
  files: readonly string[],
  options: ReadOptions,
): Promise<ReadResult[]> {
  const results: ReadResult[] = [];
  for await (const result of readRpms(files, options)) results[result.index] = result;
  return results;
}

/** The texts of the files given with --keyring. @throws KilnError E_KEYRING. */
export function readKeyrings(files: readonly string[]): string[] {
  return files.map((file) => {
    try {
      return readFileSync(file, 'utf8');
    } catch (cause) {
      throw new KilnError('E_KEYRING', `the keyring ${file} cannot be read`, { cause });
    }
  });
}

/** For a repeatable option of commander. */
export function collect(value: string, before: readonly string[] = []): string[] {
  return [...before, value];
}

/** What a failed file is in --json output. */
export function errorJson(file: string, error: KilnError) {
  return { file, error: { code: error.code, message: error.message, hint: error.hint ?? null } };
}
