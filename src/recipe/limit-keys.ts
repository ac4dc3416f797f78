/** Keys that recipes and the definitions of services have in common. */
import { z } from 'zod';
import { MINIMUM_MEMORY } from '../sandbox/limits.ts';
import { sizeInBytes, timeInMilliseconds } from './quantity.ts';

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

/** What a sandbox may use. */
export const limitKeys = {
  memory: size
    .refine((bytes) => bytes >= MINIMUM_MEMORY, 'less than a sandbox takes: 4M or more')
    .optional(),
  cpus: z.number().positive().optional(),
  pids: z.int().positive().optional(),
  'io-read': size.optional().describe('Bytes a second from each disk it reaches'),
  'io-write': size.optional().describe('Bytes a second to each disk it reaches'),
};
