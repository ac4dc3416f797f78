import { createHash } from 'node:crypto';
import { z } from 'zod';
import { defined } from '../defined.ts';
import { DEFAULT_DISK } from '../host/state/disk-watch.ts';
import { lockSchema } from '../packages/repository/lock/lock.ts';
import { readLockFile } from '../packages/repository/lock/lock-file.ts';
import { moduleRequestSchema } from '../packages/solver/solve-input.ts';
import type { ImageModules, LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import type { ImageSettings } from './build.ts';
import { canonicalJson } from './key.ts';

const KIND = 'kiln-image-lock';

const settingsSchema = z.strictObject({
  name: z.string(),
  description: z.string(),
  user: z.string(),
  workdir: z.string().nullable(),
  environment: z.record(z.string(), z.string()),
  users: z.array(
    z.strictObject({
      name: z.string(),
      uid: z.int(),
      gid: z.int().optional(),
      comment: z.string(),
      home: z.string().optional(),
      shell: z.string(),
      groups: z.array(z.string()),
    }),
  ),
  scriptlets: z.strictObject({
    mode: z.enum(['auto', 'exact', 'none']),
    timeout: z.number().positive(),
    disk: z.number().positive().default(DEFAULT_DISK),
  }),
  files: z.array(
    z.strictObject({
      path: z.string().startsWith('/'),
      mode: z.int().min(0).max(0o7777),
      owner: z.string(),
      group: z.string(),
      content: z.base64().describe('In base64'),
    }),
  ),
});

/**
 * A whole image, pinned: the packages by digest, and everything else of its recipe. Building from it needs
 * neither the recipe nor a solver.
 */
export const imageLockSchema = z.strictObject({
  kind: z.literal(KIND),
  format: z.literal(1),
  /** The digest of what the recipe asked for: if it differs, the lock is out of date. */
  asked: z.string(),
  image: settingsSchema,
  packages: lockSchema,
  /** The module request, which also applies to packages on top of the image. */
  modules: moduleRequestSchema.optional(),
});

export type ImageLock = z.output<typeof imageLockSchema>;

/** The digest (sha256, hex) of what a recipe wants installed. The places of its repositories do not count. */
export function askedDigest(recipe: LoadedImageRecipe): string {
  const { arch, packages, groups, exclude, recommends, modules } = recipe;
  const repositories = recipe.repositories.map(({ id }) => id);
  const asked = canonicalJson({
    ...{ arch, packages, groups, exclude, recommends, repositories },
    ...defined({ modules }),
  });
  return createHash('sha256').update(asked).digest('hex');
}

/** The text of a lock file. Equal images give equal bytes. */
export function serializeImageLock(
  settings: ImageSettings,
  packages: ImageLock['packages'],
  asked: string,
  modules?: ImageModules,
): string {
  return `${JSON.stringify(imageLock(settings, packages, asked, modules), undefined, 2)}\n`;
}

/** The content of a lock file. */
export function imageLock(
  settings: ImageSettings,
  packages: ImageLock['packages'],
  asked: string,
  modules?: ImageModules,
): ImageLock {
  const files = settings.files.map((file) => ({
    ...file,
    content: file.content.toString('base64'),
  }));
  const image = { ...settings, files };
  // Parsing rebuilds every object with the keys in the schema's order.
  const wanted = modules === undefined ? {} : { modules };
  return imageLockSchema.parse({ kind: KIND, format: 1, asked, image, packages, ...wanted });
}

/** @throws KilnError E_LOCK_INVALID, E_LOCK_READ. */
export async function readImageLock(path: string): Promise<ImageLock> {
  return readLockFile(path, {
    schema: imageLockSchema,
    name: 'lock of an image',
    hint: '`kiln image lock RECIPE` makes one',
  });
}

/** The settings in a lock, apart from its packages. */
export function lockedSettings(lock: ImageLock): ImageSettings {
  const files = lock.image.files.map((file) => ({
    ...file,
    content: Buffer.from(file.content, 'base64'),
  }));
  return { ...lock.image, files };
}
