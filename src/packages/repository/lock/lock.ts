import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { reasonLine } from '../../../host/calls/system-error.ts';
import { LockAccess } from '../transport/access.ts';
import { LOCK_FORMAT } from './lock-format.ts';

export const sourceSchema = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('baseurl'), urls: z.array(z.string()).min(1) }),
  z.strictObject({ kind: z.literal('metalink'), url: z.string() }),
  z.strictObject({ kind: z.literal('mirrorlist'), url: z.string() }),
  z.strictObject({ kind: z.literal('directory'), path: z.string().startsWith('/') }),
]);

const lockedRepositorySchema = z.strictObject({
  id: z.string(),
  source: sourceSchema,
  gpgcheck: z.boolean(),
  gpgkey: z.array(z.string()).describe('Absolute paths of the key files'),
});

/** rpm keeps an epoch in 32 bits. */
const MAX_EPOCH = 2 ** 32 - 1;

/** A digest as kiln writes it: the algorithm's name, a colon, lower-case hex. */
const DIGEST = /^(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})$/;

const lockedPackageSchema = z.strictObject({
  nevra: z.string().describe('name-epoch:version-release.arch, epoch 0 left out'),
  name: z.string().min(1),
  epoch: z.int().min(0).max(MAX_EPOCH),
  version: z.string().min(1),
  release: z.string().min(1),
  arch: z.string().min(1),
  digest: z.string().regex(DIGEST).describe('Of the whole .rpm file'),
  size: z.int().min(0).describe('Bytes of the .rpm file'),
  location: z.string().min(1).describe("Relative to the repository's folder, or an absolute URL"),
  repository: z.string(),
});

/** The lock file: everything in a build root. Building from it needs no solver. */
export const lockSchema = z
  .strictObject({
    format: z.literal(LOCK_FORMAT),
    arch: z.string().min(1),
    requested: z.array(z.string()),
    repositories: z.array(lockedRepositorySchema),
    packages: z
      .array(lockedPackageSchema)
      .describe('In the order in which they are to be installed'),
    access: z.instanceof(LockAccess).optional().describe('In memory only: no file has it'),
  })
  .superRefine((lock, context) => {
    const known = new Set(lock.repositories.map((repository) => repository.id));
    lock.packages.forEach((entry, index) => {
      if (known.has(entry.repository)) return;
      context.addIssue({
        code: 'custom',
        path: ['packages', index, 'repository'],
        message: `no repository ${entry.repository} in this lock`,
      });
    });
  });

export type Lock = z.output<typeof lockSchema>;
export type LockedPackage = Lock['packages'][number];
export type LockedRepository = Lock['repositories'][number];

/**
 * A lock made from metadata, checked. @throws KilnError E_REPOSITORY_METADATA with the first package that
 * cannot be locked, and why
 */
export function lockOf(
  value: Readonly<Record<string, unknown>> & {
    readonly packages: readonly ({ readonly nevra: string } | undefined)[];
  },
): Lock {
  const result = lockSchema.safeParse(value);
  if (result.success) return result.data;
  const [, index] = result.error.issues[0]?.path ?? [];
  const nevra = value.packages[Number(index)]?.nevra ?? 'a package';
  throw new KilnError('E_REPOSITORY_METADATA', `${nevra.slice(0, 300)} cannot be locked`, {
    cause: new Error(reasonLine(result.error)),
    hint: 'the metadata of its repository is broken or hostile: leave the package out by `exclude`',
  });
}
