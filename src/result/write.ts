import type { Owner } from '../artifacts/destination.ts';
import { writeText } from '../artifacts/staging.ts';
import type { Result } from './schema.ts';

/** The file's name in a result directory. */
const RESULT_FILE = 'result.json';

/**
 * Writes result.json: whoever reads it sees the old one or the new one, whole. Its content is on
 * the disk when this returns.
 *
 * @param directory the result directory, made if missing
 * @param owner whose the file is
 * @returns the file's absolute path
 * @throws KilnError E_RESULTDIR
 */
export async function writeResult(
  directory: string,
  result: Result,
  owner: Owner,
): Promise<string> {
  const text = `${JSON.stringify(result, undefined, 2)}\n`;
  return await writeText(directory, RESULT_FILE, text, owner);
}
