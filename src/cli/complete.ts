import { Argument, Command } from 'commander';
import type { StatePaths } from '../host/state/paths.ts';
import { statePaths } from '../host/state/paths.ts';
import { recipeNames } from '../image/find.ts';
import { visibleImages } from '../image/store/images.ts';
import type { ImageOwner } from '../image/store/owners.ts';
import { listSandboxes } from '../sandbox/domain/list.ts';
import { serviceNames } from '../service/lifecycle/store.ts';
import { seesImage } from '../users/configuration.ts';
import type { Caller } from './caller/caller.ts';
import { LISTED, type Listed } from './reference/value-kinds.ts';

/** A word with its description. */
type Suggestion = readonly [word: string, about: string];

const LISTS: Readonly<
  Record<Listed, (paths: StatePaths, caller: Caller) => Promise<readonly Suggestion[]>>
> = {
  recipe: async (_, caller) => await recipes(caller),
  image: async (paths, caller) => {
    const { user } = caller;
    const owner = user && {
      uid: user.uid,
      seesOfRoot: (image: ImageOwner) => seesImage(user.policy, image),
    };
    const images = await visibleImages({ paths, owner });
    return [
      ...(await recipes(caller)),
      ...images.map(({ manifest: { id, name } }) => [id.slice(0, 12), `image ${name}`] as const),
    ];
  },
  sandbox: async (paths, { user }) =>
    (await listSandboxes(paths, { owner: user }))
      .filter(({ state }) => state !== 'parked')
      .map(({ id, state, record }) => [
        id,
        [state, ...(record.command ?? [])].join(' ').slice(0, 60),
      ]),
  service: async (paths, { user }) =>
    user === undefined ? (await serviceNames(paths)).map((name) => [name, 'service']) : [],
};

/** The daemon does not look into a user's folder. */
async function recipes(caller: Caller): Promise<Suggestion[]> {
  const names = await recipeNames(caller.user === undefined ? caller.cwd() : '/');
  return names.map((name) => [name, 'recipe']);
}

/** `kiln complete`: a word and what it is on each line, with a tab between them. */
export function command(caller: Caller): Command {
  return new Command('complete')
    .description('List what a shell completes a word to.')
    .addArgument(new Argument('<kind>', 'what the word is to be').choices(LISTED))
    .addHelpText('after', '\nExamples:\n  kiln complete image')
    .action(async (kind: Listed) => {
      const found = await LISTS[kind](statePaths(caller.env), caller);
      const lines = found.map(([word, about]) => `${word}\t${about.replaceAll(/\s+/g, ' ')}\n`);
      caller.stdout.say([...new Set(lines)].join(''));
    });
}
