/** The common part of all lock files: they are JSON, and are easily confused. */
import type * as z from 'zod';
import { KilnError } from '../../../errors.ts';
import { reasonLine } from '../../../host/calls/system-error.ts';
import { readUserFile } from '../../../host/files/user-file.ts';

/** The most bytes of a lock: 10,000 packages take 5 MB, and the recipe's files are in it. */
const MAX_LOCK = 256 * 2 ** 20;

/** Files that are confused with locks: what they are, and what they are for. */
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

/** The expected file, in words. */
export interface LockForm<Schema extends z.ZodType> {
  readonly schema: Schema;
  /** Follows “FILE is no ”. */
  readonly name: string;
  /** How to get one. */
  readonly hint: string;
}

/** Reads a lock file. @throws KilnError E_LOCK_READ, E_LOCK_INVALID */
export function readLockFile<Schema extends z.ZodType>(
  path: string,
  form: LockForm<Schema>,
): z.output<Schema> {
  let text: string;
  try {
    text = readUserFile(path, MAX_LOCK).toString('utf8');
  } catch (cause) {
    throw new KilnError('E_LOCK_READ', `cannot read the lock ${path}`, { hint: form.hint, cause });
  }
  return parseLockText(text, path, form);
}

/**
 * Parses the text of a lock. @param origin its name in messages: the file's path @throws KilnError
 * E_LOCK_INVALID with what else the file is, or the first mistake
 */
function parseLockText<Schema extends z.ZodType>(
  text: string,
  origin: string,
  { schema, name, hint }: LockForm<Schema>,
): z.output<Schema> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new KilnError('E_LOCK_INVALID', `${origin} is no ${name}: it is not JSON`, { hint });
  }
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const other = kindOf(value);
  if (other !== undefined && !other.name.endsWith(name)) {
    throw new KilnError('E_LOCK_INVALID', `${origin} is no ${name}, but ${other.name}`, {
      hint: other.hint,
    });
  }
  const why = reasonLine(result.error);
  throw new KilnError('E_LOCK_INVALID', `${origin} is no ${name} that kiln can read: ${why}`, {
    hint,
  });
}

function kindOf(value: unknown) {
  if (typeof value !== 'object' || value === null) return undefined;
  return KINDS.find(({ is }) => is(value as Record<string, unknown>));
}
