import { z } from 'zod';

const COMPRESSIONS = ['none', 'bzip2', 'gzip', 'xz', 'zstd'] as const;
export type Compression = (typeof COMPRESSIONS)[number];

/** A metadata file as repomd.xml describes it. Digests are written `sha256:HEX`. */
export const metadataFileSchema = z.strictObject({
  /** Its type in repomd.xml: `primary`, `filelists`, `group`. */
  type: z.string().max(64),
  /** Relative to the repository's folder, or an absolute URL. */
  location: z.string().max(4096),
  compression: z.enum(COMPRESSIONS),
  digest: z.string(),
  /** Bytes as compressed, if repomd.xml says it. */
  size: z.int().min(0).optional(),
  openDigest: z.string().optional(),
  openSize: z.int().min(0).optional(),
});
export type MetadataFile = z.output<typeof metadataFileSchema>;
