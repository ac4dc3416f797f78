import { z } from 'zod';
import { defined } from '../defined.ts';
import { DEFAULT_DISK } from '../host/state/disk-watch.ts';
import { lockSchema, readLockFile } from '../packages/repository/lock/lock.ts';
import type { ModuleRequest } from '../packages/solver/solve-input.ts';
import type { ImageModules, LoadedImageRecipe } from '../recipe/load-image-recipe.ts';
import type { ImageSettings } from './build.ts';
import { digestOf } from './key.ts';

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
      group: z.string().optional(),
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
  folders: z.array(z.string().startsWith('/')).optional(),
  kernel: z.literal(true).optional(),
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

const modulesSchema: z.ZodType<ModuleRequest> = z.strictObject({
  enable: z.array(z.string()),
  disable: z.array(z.string()),
  install: z.array(z.string()),
  obsoletes: z.boolean(),
  platform: z.string().optional(),
});

/** A whole image, pinned: building from it needs neither the recipe nor a solver. */
export const imageLockSchema = z.strictObject({
  kind: z.literal(KIND),
  format: z.literal(1),
  asked: z.string(),
  image: settingsSchema,
  packages: lockSchema,
  modules: modulesSchema.optional(),
});

export type ImageLock = z.output<typeof imageLockSchema>;

/** sha256, hex, of what a recipe wants installed. The places of its repositories do not count. */
export function askedDigest(recipe: LoadedImageRecipe): string {
  const { arch, packages, groups, exclude, recommends, modules } = recipe;
  const repositories = recipe.repositories.map(({ id }) => id);
  return digestOf({
    ...{ arch, packages, groups, exclude, recommends, repositories },
    ...defined({ modules }),
  });
}

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
  const wanted = defined({ modules });
  return imageLockSchema.parse({ kind: KIND, format: 1, asked, image, packages, ...wanted });
}

/** @param below a folder as openWithin() takes it */
export async function readImageLock(path: string, below?: string): Promise<ImageLock> {
  const form = {
    schema: imageLockSchema,
    name: 'lock of an image',
    hint: '`kiln image lock RECIPE` makes one',
  };
  return readLockFile(path, form, below);
}

export function lockedSettings(lock: ImageLock): ImageSettings {
  const files = lock.image.files.map((file) => ({
    ...file,
    content: Buffer.from(file.content, 'base64'),
  }));
  return { ...lock.image, files };
}
