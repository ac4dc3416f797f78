import { ASKED_OF_RECIPES, BUILD, CHAIN } from '../options/build.ts';
import { type Fields, fieldsOf } from '../options/kind.ts';
import { type Rows, wordsAgain } from '../options/row.ts';
import { SANDBOX } from '../options/sandbox.ts';
import type { Result } from '../result/schema.ts';
import { shellWord } from '../shell-words.ts';

/**
 * A command for a shell that does a job again. Values of environment variables and of parameters, and files of
 * secrets, are in no result: the first come from the caller's environment, for the others VALUE and FILE are places
 * to fill in.
 * @returns undefined where the request does not say what was asked for
 */
export function replayCommand({ request, image: used }: Result): string | undefined {
  const { argv, recipe } = request;
  if (recipe !== undefined) {
    const { given, path, parameters, allowHost } = fieldsOf(recipe);
    if (given === undefined || typeof path !== 'string') return undefined;
    return command('build', [
      ...again(ASKED_OF_RECIPES, { ...fieldsOf(given), parameters, allowHost }),
      path,
    ]);
  }
  if (Array.isArray(argv)) {
    const name = used?.name ?? request.image;
    if (typeof name !== 'string') return undefined;
    // A snapshot has its image.
    const image = request.fromSnapshot === undefined ? name : undefined;
    const words = again(SANDBOX, { ...request, image });
    const own = request.entrypoint === '' ? ['--entrypoint', ''] : [];
    return command('run', [...words, ...own, '--', ...argv.map(String)]);
  }
  if (typeof fieldsOf(request.source).path !== 'string') return undefined;
  if (typeof request.image !== 'string') return undefined;
  const { kind, path, sources } = fieldsOf(request.source);
  if (kind !== 'spec') return command('build', [...again(BUILD, request), String(path)]);
  return command('build', again(BUILD, { ...request, spec: path, sourceDirectory: sources }));
}

/** As chain.json has it. */
interface ReplayedChain {
  readonly request: Fields;
  readonly members: readonly { readonly source?: string | undefined }[];
  readonly farm?: unknown;
}

/** The same of a chain, or undefined. */
export function replayChain({ request, members, farm }: ReplayedChain): string | undefined {
  const { image: from, build, resultDirectory } = request;
  const sources = members.flatMap(({ source }) => source ?? []);
  const isWhole = sources.length > 0 && sources.length === members.length;
  if (build === undefined || !isWhole) return undefined;
  return command('build', [
    '--chain',
    ...(farm === undefined ? [] : ['--farm']),
    // 0 for a pool's, where nobody has said how many.
    ...(['jobs', 'continue', 'recurse'] as const).flatMap((name) =>
      request[name] === 0 ? [] : wordsAgain(name, CHAIN[name], request),
    ),
    ...again(BUILD, { ...fieldsOf(build), image: from, resultDirectory }),
    ...sources,
  ]);
}

function command(name: 'run' | 'build', words: readonly string[]): string {
  return ['kiln', name, ...words].map(shellWord).join(' ');
}

/** As -r, an image is what most people write. */
function again(table: Rows, { image, ...request }: Fields): string[] {
  const asked = Object.entries(table).flatMap(([name, row]) => wordsAgain(name, row, request));
  return typeof image === 'string' && image !== '' ? ['-r', image, ...asked] : asked;
}
