/** What confined children tell of layers. They do not load this: it takes longer than reading a layer. */
import { z } from 'zod';
import { KINDS } from './entry.ts';

/** As a confined child tells it: below the folder, each part a name. */
const pathSchema = z
  .string()
  .max(1 << 16)
  .regex(/^[\x01-\xff]+$/)
  .refine((path) => path.split('/').every((name) => !['', '.', '..'].includes(name)));

export const entrySchema = z.object({
  path: pathSchema,
  kind: z.enum([...KINDS, 'whiteout']),
  size: z.number().min(0),
  mode: z.number().int().min(0).max(0o7777),
  target: z.string().max(4096).optional(),
  isOpaque: z.boolean().optional(),
  isCopy: z.boolean().optional(),
});

export const changeSchema = z.strictObject({
  path: pathSchema,
  change: z.enum(['added', 'changed', 'removed']),
  kind: z.enum(KINDS),
  was: z.enum(KINDS).optional(),
  size: z.number().min(0),
  mode: z.number().int().min(0).max(0o7777),
  target: z.string().max(4096).optional(),
  isProtected: z.boolean(),
  isCopy: z.boolean(),
  isAbove: z.boolean(),
});
