/** Errors of a run whose words mean something else than kiln takes them for. */
import type { Engine } from '../../engine.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { isKilnCode, KilnError } from '../../errors.ts';
import { findStoredImage } from '../../image/find.ts';
import { timeInMilliseconds } from '../../options/measures.ts';
import type { RunOptions } from '../../options/sandbox.ts';
import { recipeNames } from '../../recipe/named.ts';
import { shellWord } from '../../shell-words.ts';

/** The error of `--keep 5m -- COMMAND`: an optional value is one only behind `=`. */
export function timeForCommand(
  error: unknown,
  { keep }: RunOptions,
  [first = '']: readonly string[],
): KilnError | undefined {
  if (keep === undefined || !isKilnCode(error, 'E_COMMAND_NOT_FOUND')) return undefined;
  return looseTime('E_COMMAND_NOT_FOUND', first, 'the command');
}

/** @throws KilnError E_ARGUMENT for `--keep 5m`, where the time would be taken for `what` */
export function refuseLooseTime(keep: unknown, word: string, what: string): void {
  const error = keep === undefined ? undefined : looseTime('E_ARGUMENT', word, what);
  if (error !== undefined) throw error;
}

function looseTime(code: ErrorCode, word: string, what: string): KilnError | undefined {
  if (timeInMilliseconds(word) === undefined) return undefined;
  return new KilnError(code, `${word} is taken for ${what}, not for the time of --keep`, {
    hint: `write --keep=${word}`,
  });
}

/** No image is named, and no program is called so. */
function perhapsImage(error: KilnError, word: string): KilnError {
  if (!/^[a-z0-9]/.test(word)) return error;
  const [name = word] = (word.split('/').at(-1) ?? word).split(/[:@]/);
  return new KilnError(error.code, error.message, {
    cause: error.cause,
    details: error.details,
    hint: `if ${word} is an image: \`kiln image pull docker://${word}\`, then \`kiln run -r ${name} -- COMMAND\`; if it is a program: -r names an image that has it, --bind shows a file of this host`,
  });
}

/** The error of `kiln run IMAGE COMMAND`, podman’s habit, where the first word is, or may be, an image or a recipe. */
export async function imageFirst(
  error: unknown,
  { paths, owner }: Engine,
  [image = '', ...command]: readonly string[],
): Promise<unknown> {
  if (!(error instanceof KilnError)) return error;
  if (error.code !== 'E_IMAGE_MISSING' && error.code !== 'E_COMMAND_NOT_FOUND') return error;
  const isKnown =
    (await recipeNames(paths)).includes(image) ||
    (await findStoredImage({ paths, owner }, image).catch(() => undefined)) !== undefined;
  if (!isKnown) return error.code === 'E_IMAGE_MISSING' ? error : perhapsImage(error, image);
  return new KilnError(
    error.code,
    `no image is named with -r, and ${image} is taken for the command`,
    {
      hint: `kiln run -r ${image} -- ${command.length === 0 ? 'COMMAND' : command.map(shellWord).join(' ')}`,
      cause: error,
    },
  );
}
