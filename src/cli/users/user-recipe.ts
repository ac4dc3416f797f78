/** Checks what a user's build recipe asks for: the rules of the command line apply to it. */
import type { BuildRecipe } from '../../recipe/build-recipe.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { type CallerUser, forbidden } from '../../users/user.ts';
import type { SharedOptions } from '../rpmbuild/build-recipe.ts';
import type { RecipeOptions } from '../rpmbuild/build-recipe-options.ts';
import { check, fetchPath } from './user-guard.ts';
import { EGRESS, isImageName, NETWORK, SHIPPED_PROFILES } from './user-rules.ts';

/**
 * Checks a user's recipe, and opens its binds as the user, if the user allows the host.
 * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_BIND
 */
export async function admitRecipe(
  { image, sandbox }: BuildRecipe,
  user: CallerUser,
  { allowHost, image: given }: Pick<RecipeOptions & SharedOptions, 'allowHost' | 'image'>,
): Promise<readonly Bind[]> {
  const { network, egress, profile, bind } = sandbox;
  if (given === undefined && !isImageName(image)) {
    throw forbidden(`the image ${image} of a recipe`, 'it is no name', {
      hint: 'name an image recipe of your own with -r',
    });
  }
  check('sandbox.network', NETWORK, network, user, {});
  if (egress !== undefined) check('sandbox.egress', EGRESS, egress, user, {});
  if (!SHIPPED_PROFILES.includes(profile))
    throw forbidden(`sandbox.profile ${profile}`, 'sandboxes in a sandbox need its whole /proc');
  // Without that word, the plan refuses binds of a recipe.
  if (allowHost !== true) return bind;
  const binds: Bind[] = [];
  for (const wanted of bind) {
    const descriptor = Number(await fetchPath('place', wanted.source, user));
    binds.push({ ...wanted, descriptor });
  }
  return binds;
}
