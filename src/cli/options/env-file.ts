import { KilnError } from '../../errors.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { readPatiently } from '../../host/files/user-file.ts';
import { VARIABLE } from '../../options/texts.ts';
import type { Caller } from '../caller/caller.ts';

/** Bytes of one file: more than a command takes as its environment counts as a mistake. */
const FILE_MAX = 1 << 20;

/**
 * The variables of files as podman and docker have them: NAME=VALUE a line, with nothing quoted, NAME for the caller's
 * own value. Of two values the later one counts.
 * @throws KilnError E_ARGUMENT, the signal's reason
 */
export async function readVariables(
  files: readonly HeldPath[],
  { env, paths }: Caller,
  signal?: AbortSignal,
): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const file of files) {
    const name = paths.renamed(file);
    const text = await readPatiently(file, FILE_MAX, signal).catch((cause: unknown) => {
      signal?.throwIfAborted();
      throw new KilnError('E_ARGUMENT', `--env-file: ${name} cannot be read`, {
        cause,
        hint: 'name a file of lines NAME=VALUE, of 1 MiB at most',
      });
    });
    for (const [at, line] of text.toString('utf8').split('\n').entries()) {
      if (/^\s*(?:#|$)/.test(line)) continue;
      const [variable = ''] = line.split('=', 1);
      if (!VARIABLE.test(variable)) {
        throw new KilnError('E_ARGUMENT', `--env-file: ${name}: line ${at + 1} has no NAME=VALUE`, {
          hint: 'a name has letters, digits and _; comments begin with #',
        });
      }
      const value = variable === line ? env[variable] : line.slice(variable.length + 1);
      if (value !== undefined) found[variable] = value;
    }
  }
  return found;
}
