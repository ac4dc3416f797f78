import { z } from 'zod';

/** What a metalink says of a repository. */
export const metalinkSchema = z.strictObject({
  /** Folders that hold repodata/, best first. */
  mirrors: z.array(z.string().max(4096)).max(10_000),
  /** Digests of the repomd.xml files that may be served: the newest and a few before it. */
  repomds: z.array(z.strictObject({ digest: z.string(), size: z.int().min(0).optional() })),
});
export type Metalink = z.output<typeof metalinkSchema>;
