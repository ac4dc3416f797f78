import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { Engine } from '../engine.ts';
import { KilnError } from '../errors.ts';
import type { HeldPath } from '../host/files/held.ts';
import { writeUserFile } from '../host/files/user-file.ts';
import { forbiddenError } from '../users/configuration.ts';
import { resolveImage } from './find.ts';
import { askedDigest, imageLock } from './lock.ts';
import { forArchitecture } from './open.ts';
import { lockPathOf, planFromRecipe } from './plan.ts';
import type { OnImageProgress } from './progress.ts';
import { usersFiles } from './read-recipe.ts';

/**
 * Solves a recipe and writes its lock.
 * @param open opens the place for it, which is beside the recipe unless the caller has said otherwise
 * @throws KilnError E_ARGUMENT, E_FORBIDDEN, and what solving throws
 */
export async function lockRecipe(
  engine: Engine,
  name: string,
  open: (beside: string) => Promise<HeldPath>,
  onProgress: OnImageProgress,
  arch: string | undefined,
): Promise<{ readonly file: string; readonly warnings: readonly string[] }> {
  const named = forArchitecture(name, await resolveImage(engine, name, engine.cwd()), arch);
  if (named.kind !== 'recipe') {
    throw new KilnError('E_ARGUMENT', `${name} is not a recipe, and only recipes are locked`, {
      hint: 'give a recipe’s name, or the path of its .yaml file',
    });
  }
  const files = usersFiles(engine, named.path);
  if (engine.owner !== undefined && files === undefined) {
    throw forbiddenError(`to lock ${name}`, 'what root’s recipes are made of is not told', {
      hint: 'write a recipe with `extends: NAME`, and lock that one',
    });
  }
  const file = await open(lockPathOf(files?.nameOf(named.path) ?? named.path, named.arch));
  await checkOutput(file);
  const plan = await planFromRecipe(engine, named, { update: true, onProgress });
  const asked = askedDigest(plan.recipe);
  const { lock, settings } = plan;
  const repositories = engine.renamed(lock.repositories);
  const made = imageLock(settings, { ...lock, repositories }, asked, plan.recipe.modules);
  try {
    writeUserFile(file, `${JSON.stringify(made, undefined, 2)}\n`);
  } catch (cause) {
    throw unwritableError(file, cause);
  }
  return { file, warnings: plan.warnings };
}

async function checkOutput(file: HeldPath): Promise<void> {
  const folder = dirname(resolve(file));
  const [there, at] = await Promise.all([stat(folder), stat(file).catch(() => undefined)]).catch(
    (cause: unknown) => {
      throw unwritableError(file, cause);
    },
  );
  if (!there.isDirectory()) throw unwritableError(file, new Error(`${folder} is not a folder`));
  if (at?.isDirectory()) throw unwritableError(file, new Error('it is a folder'));
}

function unwritableError(file: string, cause: unknown): KilnError {
  return new KilnError('E_ARGUMENT', `cannot write ${file}`, {
    hint: 'name a file in a folder that is there and can be written: -o FILE',
    cause,
  });
}
