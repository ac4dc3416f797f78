/** The image of a step on this machine. */

import { KilnError } from '../errors.ts';
import { requestedImage } from '../image/build.ts';
import { resolveImage } from '../image/find.ts';
import { type ImageLock, lockedSettings } from '../image/lock.ts';
import { readRecipe } from '../image/plan.ts';
import { describeRecipe } from '../jobs/rpmbuild/buildroot/describe-base.ts';
import { isAbsoluteUrl } from '../packages/repository/transport/location.ts';
import type { Engine } from '../sandbox/open.ts';
import type { Step } from './step.ts';

/**
 * The lock of a step's image with everything but the packages from this machine's own recipe: where packages
 * come from, which keys sign them and which files are written is never the step's to say.
 * @throws KilnError E_FARM_IMAGE where this machine's recipe makes another image, or there is none
 */
export async function ownLock(
  engine: Engine,
  { name, id, lock }: Step['image'],
): Promise<ImageLock> {
  const named = await resolveImage(engine, name, engine.cwd());
  if (named.kind !== 'recipe' || lock === null || id === null) {
    throw another(name, `this machine has no recipe ${name}`);
  }
  // Root would fetch what a user's step says.
  const outside = lock.packages.packages.find(({ location }) => isAbsoluteUrl(location));
  if (engine.owner !== undefined && outside !== undefined) {
    throw another(name, `${outside.nevra} is at ${outside.location}, not below a repository`);
  }
  const recipe = await readRecipe(engine, named.path);
  const own = (await describeRecipe(recipe, lock.packages.packages)).lock;
  if (own === undefined) {
    throw another(
      name,
      'its recipe here does not have all repositories that the packages come from',
    );
  }
  const made = await requestedImage({ lock: own.packages, settings: lockedSettings(own) });
  if (made === id) return own;
  throw another(name, `its recipe here makes ${made.slice(0, 12)} of the same packages`);
}

function another(name: string, why: string): KilnError {
  return new KilnError('E_FARM_IMAGE', `${name} is another image on this machine: ${why}`, {
    hint: 'a worker and the submitting machine need the same kiln and the same recipes',
  });
}
