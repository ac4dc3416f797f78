/** Which commands users who are not root may call; of options, their rows say it. */
import { isImageName } from '../../image/find.ts';
import { isRecipeName } from '../../jobs/recipe/request.ts';
import { open, path, type Rule } from '../../options/rules.ts';
import { isPackageOrSpec } from '../rpmbuild/build-request.ts';

export function isOwnImageRecipe(text: string): boolean {
  return /\.ya?ml$/.test(text);
}

export function isBuiltFile(text: string): boolean {
  return isRecipeName(text) || isPackageOrSpec(text) || !isImageName(text);
}

/** What the arguments of each command are. One that is missing here is root's. */
export const USER_COMMANDS: Readonly<Record<string, Rule>> = {
  ...open('run', 'shell', 'exec', 'cp', 'diff', 'apply', 'discard'),
  // Others' sandboxes and snapshots are not found.
  ...open('snapshot', 'snapshot ls', 'snapshot show', 'snapshot rm', 'fork', 'rollback'),
  ...open('image commit'),
  build: path('built', undefined, isBuiltFile),
  // What these then call has the rules of `run`, `exec` and `kill`.
  ...open('ci gitlab config', 'ci gitlab prepare', 'ci gitlab run', 'ci gitlab cleanup'),
  ...open('ci github-hook'),
  // Ids of others' sandboxes and jobs mean nothing to their own.
  ...open('attach', 'wait', 'logs', 'results', 'ps', 'kill', 'stop', 'stats', 'top', 'df', 'gc'),
  ...open('events'),
  'image build': 'image',
  // Only the user's own recipes: see lockRecipe().
  'image lock': 'image',
  ...open('image ls', 'image schema'),
  inspect: 'image',
  'image show': 'image',
  // Only the user's own: others' images are not found, root's are not removed.
  'image rm': 'image',
  'image tag': 'image',
  ...open('image prune'),
  'image import': path('sources'),
  'image export': 'image',
  // Both are refused without users.farm: see admitWorker().
  ...open('farm advertise', 'farm step'),
  ...open('config show', 'complete', 'completion', 'version'),
  'config check': path('text'),
};

/** Of commands that are root's alone: what their arguments name. */
export const ROOT_COMMANDS: Readonly<Record<string, Rule>> = {
  'rpm query': path('package'),
  'rpm verify': path('package'),
  'rpm unpack': path('package'),
};
