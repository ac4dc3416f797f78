/** What a confined child says of repomd.xml, a metalink and comps. The child needs no schema: it loads in half the time. */
import { z } from 'zod';
import { COMPRESSIONS } from './repomd.ts';

const metadataFileSchema = z.strictObject({
  type: z.string().max(64),
  location: z.string().max(4096),
  compression: z.enum(COMPRESSIONS),
  digest: z.string(),
  /** Bytes as compressed, if repomd.xml says it. */
  size: z.int().min(0).optional(),
  openDigest: z.string().optional(),
  openSize: z.int().min(0).optional(),
});
export type MetadataFile = z.output<typeof metadataFileSchema>;

export const repomdSchema = z.strictObject({
  primary: metadataFileSchema,
  filelists: metadataFileSchema.optional(),
  group: metadataFileSchema.optional(),
  modules: metadataFileSchema.optional(),
});
export type Repomd = z.output<typeof repomdSchema>;

const groupPackageSchema = z.strictObject({
  name: z.string(),
  type: z.enum(['mandatory', 'default', 'optional', 'conditional']),
  requires: z.string().optional(),
});
export type GroupPackage = z.output<typeof groupPackageSchema>;

export const groupSchema = z.strictObject({
  kind: z.enum(['group', 'environment']),
  id: z.string(),
  name: z.string(),
  packages: z.array(groupPackageSchema),
  groups: z.array(z.string()),
});
export type Group = z.output<typeof groupSchema>;

export const metalinkSchema = z.strictObject({
  mirrors: z.array(z.string().max(4096)).max(10_000),
  /** Digests of the repomd.xml files that may be served: the newest and a few before it. */
  repomds: z.array(z.string()),
});
export type Metalink = z.output<typeof metalinkSchema>;
