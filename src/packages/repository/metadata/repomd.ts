import { z } from 'zod';
import { metadataFileSchema } from './metadata-file.ts';

/** What kiln uses of a repomd.xml. */
export const repomdSchema = z.strictObject({
  revision: z.string().max(256),
  primary: metadataFileSchema,
  filelists: metadataFileSchema.optional(),
  /** comps.xml */
  group: metadataFileSchema.optional(),
  /** modules.yaml */
  modules: metadataFileSchema.optional(),
});
export type Repomd = z.output<typeof repomdSchema>;
