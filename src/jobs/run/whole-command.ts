/** What runs of an image of others: its ENTRYPOINT and CMD, and the words of the caller, as podman puts them together. */
import { KilnError } from '../../errors.ts';
import { type NamingPlace, resolveImage } from '../../image/find.ts';
import type { ImageManifest } from '../../image/store/manifest.ts';
import { shellWord } from '../../shell-words.ts';
import type { RunRequest } from './request.ts';

/**
 * Words take the place of CMD and follow ENTRYPOINT. One that is given takes the place of both, and an empty one leaves
 * ENTRYPOINT out.
 * @param given a word, or a JSON array of words
 * @throws KilnError E_ARGUMENT where neither says what to run
 */
export function wholeCommand(
  image: ImageManifest,
  words: readonly string[],
  given: string | undefined,
): Pick<RunRequest, 'argv' | 'entrypoint'> {
  const { entrypoint = [], command = [] } = image;
  const before = given === undefined ? entrypoint : given === '' ? [] : wordsOf(given);
  const usual = given === undefined || given === '' ? command : [];
  const argv = [...before, ...(words.length > 0 ? words : usual)];
  if (!argv[0]) throw noCommandError(image.name);
  return entrypoint.length === 0 ? { argv } : { argv, entrypoint: '' };
}

function wordsOf(given: string): readonly string[] {
  if (!given.startsWith('[')) return [given];
  try {
    const words: unknown = JSON.parse(given);
    if (Array.isArray(words) && words.every((word) => typeof word === 'string')) return words;
  } catch {
    // It is said below.
  }
  throw new KilnError('E_ARGUMENT', `--entrypoint ${given} is no JSON array of words`, {
    hint: `write one word, or several as --entrypoint '["sh", "-c"]'`,
  });
}

/** Before an image is made that says nothing of the kind. @throws KilnError E_ARGUMENT, and as {@link resolveImage} */
export async function requireStart(
  engine: NamingPlace & { cwd(): string },
  { image, entrypoint }: { readonly image?: string; readonly entrypoint?: string },
): Promise<void> {
  if (entrypoint) return;
  if (image === undefined) throw noCommandError(undefined);
  const { kind } = await resolveImage(engine, image, engine.cwd());
  if (kind !== 'image') throw noCommandError(image);
}

function noCommandError(image: string | undefined): KilnError {
  const whose = image === undefined ? '' : `, and the image ${image} has no CMD`;
  const named = image === undefined ? '' : ` -r ${shellWord(image)}`;
  return new KilnError('E_ARGUMENT', `no command is given${whose}`, {
    hint: `write it behind --: kiln run${named} -- COMMAND; \`kiln shell${named}\` opens a shell`,
  });
}
