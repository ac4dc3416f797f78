import { z } from 'zod';
import { type ImageLock, imageLock, imageLockSchema } from '../../../image/lock.ts';
import { lockSchema } from '../../../packages/repository/lock/lock.ts';
import { readLockFile } from '../../../packages/repository/lock/lock-file.ts';
import type { BuildBase } from './base.ts';
import type { Layer } from './layer.ts';

const KIND = 'kiln-build-lock';

/**
 * The image a build ran in, pinned: the base, and what came on top of it for this package. A build
 * from it needs no solver and no metadata, and runs in an image of the same id.
 */
const buildLockSchema = z.strictObject({
  kind: z.literal(KIND),
  format: z.literal(1),
  image: imageLockSchema,
  /** What the source package required. */
  buildRequires: z.array(z.string()),
  layer: lockSchema.nullable().describe('packages on top of the image'),
});

export type BuildLock = z.output<typeof buildLockSchema>;

/**
 * The lock of a build; undefined where it is not known which repositories the base came from.
 * Equal locks give equal bytes.
 */
export function serializeBuildLock(
  base: BuildBase,
  layer: Layer,
  buildRequires: readonly string[],
): string | undefined {
  const image = lockedImage(base, layer);
  if (image === undefined) return undefined;
  const lock = buildLockSchema.parse({
    kind: KIND,
    format: 1,
    image,
    buildRequires: [...buildRequires].sort(),
    layer: layer.whole ? null : layer.lock,
  });
  return `${JSON.stringify(lock, undefined, 1)}\n`;
}

function lockedImage(base: BuildBase, { whole, lock }: Layer): ImageLock | undefined {
  if (!whole || lock === null) return base.lock;
  return imageLock(base.settings, lock, base.lock?.asked ?? '', base.modules);
}

/** @throws KilnError E_LOCK_INVALID, E_LOCK_READ. */
export async function readBuildLock(path: string): Promise<BuildLock> {
  return readLockFile(path, {
    schema: buildLockSchema,
    name: 'lock of a build',
    hint: 'take the lock.json of a result directory of `kiln build`',
  });
}
