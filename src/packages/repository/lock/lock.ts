import { z } from 'zod';
import { KilnError } from '../../../errors.ts';
import { attempt } from '../../../host/calls/libc.ts';
import { reasonLine } from '../../../host/calls/system-error.ts';
import { readUserFile } from '../../../host/files/user-file.ts';
import { LockAccess } from '../transport/access.ts';

/** The format of locks: raised when the meaning of a field changes; readers refuse unknown formats. */
export const LOCK_FORMAT = 1;

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
  below: z.string().startsWith('/').optional().describe('Out of this folder no link leads to them'),
});

/** rpm keeps an epoch in 32 bits. */
const MAX_EPOCH = 2 ** 32 - 1;

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

/** The most bytes of a lock: 10,000 packages take 5 MB, and the recipe's files are in it. */
const MAX_LOCK = 256 * 2 ** 20;

const KINDS: readonly {
  readonly is: (value: Record<string, unknown>) => boolean;
  readonly name: string;
  readonly hint: string;
}[] = [
  {
    is: ({ kind }) => kind === 'kiln-build-lock',
    name: 'the lock of a build',
    hint: '`kiln build --lock FILE SOURCE` builds by it; `kiln image lock RECIPE` locks an image',
  },
  {
    is: ({ kind }) => kind === 'kiln-image-lock',
    name: 'the lock of an image',
    hint: 'give it as the image: -r FILE',
  },
  {
    is: ({ buildroot }) => typeof buildroot === 'object',
    name: "mock's lock of a buildroot",
    hint: '`kiln image lock RECIPE` makes the lock of an image',
  },
  {
    is: ({ lockfileVersion }) => lockfileVersion !== undefined,
    name: "npm's lock",
    hint: '`kiln image lock RECIPE` makes the lock of an image',
  },
  {
    is: ({ exitStatus, resources }) => exitStatus !== undefined && resources !== undefined,
    name: 'the result of a job',
    hint: "a build's lock.json lies beside it",
  },
];

interface LockForm<Schema extends z.ZodType> {
  readonly schema: Schema;
  readonly name: string;
  readonly hint: string;
}

/** @param below a folder as openWithin() takes it */
export function readLockFile<Schema extends z.ZodType>(
  path: string,
  { schema, name, hint }: LockForm<Schema>,
  below?: string,
): z.output<Schema> {
  const invalid = (why: string, next = hint) =>
    new KilnError('E_LOCK_INVALID', `${path} is not a ${name}${why}`, { hint: next });
  let text: string;
  try {
    text = readUserFile(path, MAX_LOCK, 'file', below).toString('utf8');
  } catch (cause) {
    throw new KilnError('E_LOCK_READ', `cannot read the lock ${path}`, { hint, cause });
  }
  const value: unknown = attempt(() => JSON.parse(text));
  if (value === undefined) throw invalid(': it is not JSON');
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const other = KINDS.find(({ is }) => is(Object(value) as Record<string, unknown>));
  if (other !== undefined && !other.name.endsWith(name)) {
    throw invalid(`, but ${other.name}`, other.hint);
  }
  throw invalid(` that kiln can read: ${reasonLine(result.error)}`);
}
