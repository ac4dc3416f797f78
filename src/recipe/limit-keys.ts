import { z } from 'zod';
import { defined } from '../defined.ts';
import { sizeInBytes, timeInMilliseconds } from '../options/measures.ts';
import { parseDuration } from '../packages/repository/configuration-schema.ts';
import {
  LIMIT_NAMES,
  LIMITS,
  type LimitName,
  limitsOf,
  MINIMUM_MEMORY,
  type SandboxLimits,
} from '../sandbox/policy/limits.ts';

function measured(parse: (text: string) => number | undefined, what: string) {
  return z.union([z.number(), z.string()]).transform((value, context) => {
    const number = parse(String(value));
    if (number !== undefined && number > 0) return number;
    context.addIssue({ code: 'custom', message: `"${value}" is no ${what}` });
    return z.NEVER;
  });
}

const DURATION = 'duration, as 90s, 10m or 1h';

/** In bytes. */
export const size = measured(sizeInBytes, 'size, as 512M or 2G');

/** In milliseconds. */
export const time = measured(timeInMilliseconds, DURATION);

/** In seconds. */
export const seconds = measured(parseDuration, DURATION);

export const environment = z.record(
  z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'letters, digits and _ only'),
  z.string().regex(/^[^\0]*$/, 'no NUL byte'),
);

type LimitKey = (typeof LIMITS)[LimitName]['key'];

/** A limit that is missing here does not compile. */
export const limitKeys = {
  memory: size
    .refine((bytes) => bytes >= MINIMUM_MEMORY, 'less than a sandbox takes: 4M or more')
    .optional(),
  cpus: z.number().positive().optional(),
  pids: z.int().positive().optional(),
  'io-read': size.optional().describe('Bytes a second from each disk it reaches'),
  'io-write': size.optional().describe('Bytes a second to each disk it reaches'),
} satisfies Record<LimitKey, z.ZodType<number | undefined>>;

type KeyedLimits = { readonly [Key in LimitKey]?: number | undefined };

export function limitsOfKeys(keyed: KeyedLimits): SandboxLimits {
  return limitsOf(Object.fromEntries(LIMIT_NAMES.map((name) => [name, keyed[LIMITS[name].key]])));
}

export function keysOfLimits(limits: SandboxLimits): KeyedLimits {
  const keyed = LIMIT_NAMES.map((name) => [LIMITS[name].key, limits[name]]);
  return defined(Object.fromEntries(keyed));
}
