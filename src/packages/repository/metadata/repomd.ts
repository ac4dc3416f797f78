import { z } from 'zod';
import { KilnError } from '../../../errors.ts';

/** The most bytes of a metadata file: as compressed (Fedora's file lists have 60 MiB), and open (800 MiB). */
export const MAX_METADATA: number = 2 ** 30;
export const MAX_OPEN_METADATA: number = 8 * 2 ** 30;

const COMPRESSIONS = ['none', 'bzip2', 'gzip', 'xz', 'zstd'] as const;
export type Compression = (typeof COMPRESSIONS)[number];

export const metadataFileSchema = z.strictObject({
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

export function brokenMetadata(file: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_REPOSITORY_METADATA', `${file} is broken: ${why}`, {
    cause,
    hint: 'the repository is at fault: try again later, or make its metadata anew (createrepo_c)',
  });
}

/** Whether primary metadata lists a file of this path (createrepo_c's filter); all others are in filelists only. */
export function isPrimaryFile(path: string): boolean {
  return path.startsWith('/etc/') || path.includes('bin/') || path === '/usr/lib/sendmail';
}
