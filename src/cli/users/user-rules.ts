/**
 * Which options of each command users who are not root may give: their rows say it, and where there are none yet, this
 * file. An option without a rule does not compile, and a command that is missing here is root's.
 */
import { isImageName } from '../../image/find.ts';
import { isRecipeName } from '../../jobs/recipe/request.ts';
import { BUILDS } from '../../options/build.ts';
import { rootsRules, usersRules } from '../../options/row.ts';
import { open, path, type Rule } from '../../options/rules.ts';
import { EXEC, LIMITS, RUN, SHELL } from '../../options/sandbox.ts';
import { isPackageOrSpec } from '../rpmbuild/build-request.ts';

export function isOwnImageRecipe(text: string): boolean {
  return /\.ya?ml$/.test(text);
}

export function isBuiltFile(text: string): boolean {
  return isRecipeName(text) || isPackageOrSpec(text) || !isImageName(text);
}

export interface CommandRules {
  readonly options: Readonly<Record<string, Rule>>;
  readonly arguments: Rule;
  /** The option with which another program takes the paths, by their names. */
  readonly givesNames?: string;
}

export const USER_COMMANDS: Readonly<Record<string, CommandRules>> = {
  run: { options: usersRules(RUN), arguments: 'open' },
  shell: { options: usersRules(SHELL), arguments: 'open' },
  exec: { options: usersRules(EXEC), arguments: 'open' },
  build: { options: usersRules(BUILDS), arguments: path('built', undefined, isBuiltFile) },
  // What these then call has the rules of `run`, `exec` and `kill`.
  'ci gitlab config': { options: {}, arguments: 'open' },
  'ci gitlab prepare': { options: open('allowImage'), arguments: 'open' },
  'ci gitlab run': { options: {}, arguments: 'open' },
  'ci gitlab cleanup': { options: {}, arguments: 'open' },
  'ci github-hook': { options: open('allowImage'), arguments: 'open' },
  // Ids of others' sandboxes and jobs mean nothing to their own.
  attach: { options: {}, arguments: 'open' },
  wait: { options: {}, arguments: 'open' },
  logs: { options: open('follow'), arguments: 'open' },
  results: { options: {}, arguments: 'open' },
  ps: { options: open('json', 'jobs', 'all', 'format'), arguments: 'open' },
  kill: { options: open('all'), arguments: 'open' },
  df: { options: open('json', 'format'), arguments: 'open' },
  gc: { options: open('maxAge', 'json'), arguments: 'open' },
  'image build': { options: open('json', 'update', 'quiet', 'allowHost'), arguments: 'image' },
  // Only the user's own recipes: see lockRecipe().
  'image lock': {
    options: { output: path('result'), ...open('quiet', 'allowHost') },
    arguments: 'image',
  },
  'image ls': { options: open('json', 'format'), arguments: 'open' },
  'image show': { options: {}, arguments: 'image' },
  // Only the user's own: others' images are not found, root's are not removed.
  'image rm': { options: {}, arguments: 'image' },
  'image import': {
    options: { name: 'open', disk: LIMITS.disk.users, json: 'open' },
    arguments: path('sources'),
  },
  'image export': {
    options: { output: path('result'), ...open('compress', 'quiet', 'allowHost') },
    arguments: 'image',
  },
  // Both are refused without users.farm: see admitWorker().
  'farm advertise': { options: {}, arguments: 'open' },
  'farm step': { options: { resultdir: path('results'), worker: 'open' }, arguments: 'open' },
  'config show': { options: open('json'), arguments: 'open' },
  'config check': { options: {}, arguments: path('text') },
  complete: { options: {}, arguments: 'open' },
  completion: { options: {}, arguments: 'open' },
  version: { options: {}, arguments: 'open' },
  'image schema': { options: {}, arguments: 'open' },
};

/** What is root's alone, where it names files; beside the paths of the rules above. */
export const ROOT_COMMANDS: Readonly<Record<string, Partial<CommandRules>>> = {
  run: { options: rootsRules(RUN) },
  shell: { options: rootsRules(SHELL) },
  build: { options: rootsRules(BUILDS), givesNames: 'farm' },
  'rpm query': { options: { keyring: path('content') }, arguments: path('package') },
  'rpm verify': { options: { keyring: path('content') }, arguments: path('package') },
  'rpm unpack': { options: { keyring: path('content') }, arguments: path('package') },
};

/** What an option names, whoever gives it. */
export function ruleOf(words: string, option: string): Rule | undefined {
  return ROOT_COMMANDS[words]?.options?.[option] ?? USER_COMMANDS[words]?.options[option];
}
