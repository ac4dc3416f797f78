import { z } from 'zod';
import { defined } from '../defined.ts';
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

const UNITS = 'KMGT';

/** Bytes of `512M`, `2G`, `1.5GiB`, `4096` (powers of 1024); undefined for anything else. */
export function sizeInBytes(text: string): number | undefined {
  const match = /^(\d{1,15}(?:\.\d{1,15})?)([KMGT])?(?:i?B)?$/i.exec(text);
  if (match === null) return undefined;
  const power = match[2] === undefined ? 0 : UNITS.indexOf(match[2].toUpperCase()) + 1;
  const bytes = Math.round(Number(match[1]) * 1024 ** power);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `1h30m`: units from the largest, each once at most. */
const COMPOUND = /^(\d{1,9}w)?(\d{1,9}d)?(\d{1,9}h)?(\d{1,9}m)?(\d{1,9}s)?$/;

/** Milliseconds of `90s`, `10m`, `1h30m`, `500ms`; a plain number is seconds; undefined for anything else. */
export function timeInMilliseconds(text: string): number | undefined {
  const milliseconds = /^(\d{1,12})ms$/.exec(text);
  if (milliseconds !== null) return Number(milliseconds[1]);
  const fraction = /^(\d*\.\d+)s?$/.exec(text);
  if (fraction !== null) return Math.round(Number(fraction[1]) * 1000);
  const parts = COMPOUND.exec(text)
    ?.slice(1)
    .filter((part) => part !== undefined);
  const seconds =
    parts === undefined || parts.length === 0 ? [parseDuration(text)] : parts.map(parseDuration);
  return seconds.reduce<number | undefined>(
    (sum, each) => (sum === undefined || each === undefined ? undefined : sum + each * 1000),
    0,
  );
}

export const HOSTNAME = /^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/;
