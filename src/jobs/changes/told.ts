/** What the confined child tells of layers: reader/. */
import { z } from 'zod';
import { KINDS } from './entry.ts';

/** As a confined child tells it: below the folder, each part a name. */
const pathSchema = z
  .string()
  .max(1 << 16)
  .regex(/^[\x01-\xff]+$/)
  .refine((path) => path.split('/').every((name) => !['', '.', '..'].includes(name)));

/** What lies in the upper folder of an overlay, parents first. */
export const entrySchema = z.strictObject({
  path: pathSchema,
  kind: z.enum([...KINDS, 'whiteout']),
  size: z.number().min(0),
  mode: z.number().int().min(0).max(0o7777),
  target: z.string().max(4096).optional(),
  isOpaque: z.boolean().optional(),
  /** Made of something in the lower folder, by the kernel: renamed, or gone from there meanwhile. */
  isCopy: z.boolean().optional(),
});

export type LayerEntry = z.infer<typeof entrySchema>;

export const changeSchema = z.strictObject({
  path: pathSchema,
  change: z.enum(['added', 'changed', 'removed']),
  kind: z.enum(KINDS),
  was: z.enum(KINDS).optional(),
  size: z.number().min(0),
  mode: z.number().int().min(0).max(0o7777),
  target: z.string().max(4096).optional(),
});
