/** Keys that both recipes and service definitions have. */
import { z } from 'zod';
import { parseDuration } from '../packages/repository/transport/duration.ts';
import { MINIMUM_MEMORY } from '../sandbox/policy/limits.ts';

/** A size, in bytes. */
export const size = z.union([z.number(), z.string()]).transform((value, context) => {
  const bytes = sizeInBytes(String(value));
  if (bytes !== undefined && bytes > 0) return bytes;
  context.addIssue({ code: 'custom', message: `"${value}" is no size, as 512M or 2G` });
  return z.NEVER;
});

/** A duration, in milliseconds. */
export const time = z.union([z.number(), z.string()]).transform((value, context) => {
  const milliseconds = timeInMilliseconds(String(value));
  if (milliseconds !== undefined && milliseconds > 0) return milliseconds;
  context.addIssue({ code: 'custom', message: `"${value}" is no duration, as 90s, 10m or 1h` });
  return z.NEVER;
});

/** The limits of a sandbox. */
export const limitKeys = {
  memory: size
    .refine((bytes) => bytes >= MINIMUM_MEMORY, 'less than a sandbox takes: 4M or more')
    .optional(),
  cpus: z.number().positive().optional(),
  pids: z.int().positive().optional(),
  'io-read': size.optional().describe('Bytes a second from each disk it reaches'),
  'io-write': size.optional().describe('Bytes a second to each disk it reaches'),
};

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

/** The form of a sandbox's host name. */
export const HOSTNAME = /^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/;
