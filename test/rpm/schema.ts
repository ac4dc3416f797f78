/**
 * The shape of what a confined child says about a package, as a schema: what the checks of
 * src/packages/rpm/package.ts are held against. The compiler compares the types of
 * the two. Keys that are not here are dropped.
 */
import { z } from 'zod';
import { fileTypeOf, type RpmIdentity, type RpmPackage } from '../../src/packages/rpm/package.ts';

const count = z.number().int().nonnegative();
const text = z.string();

const dependency = z.object({
  name: text,
  operator: z.enum(['', '<', '<=', '=', '>=', '>', '<>', '<>=']),
  version: text,
  flags: count,
});

const script = {
  interpreter: z.array(text),
  lua: z.boolean(),
  body: text,
  expand: z.boolean(),
  queryFormat: z.boolean(),
  critical: z.boolean(),
};

const scriptlet = z.object({
  kind: z.enum([
    ...(['pretrans', 'prein', 'postin', 'posttrans', 'preuntrans'] as const),
    ...(['preun', 'postun', 'postuntrans', 'verify'] as const),
  ]),
  ...script,
});

const trigger = z.object({
  kind: z.enum(['triggerprein', 'triggerin', 'triggerun', 'triggerpostun']),
  ...script,
  conditions: z.array(dependency),
});

const fileTrigger = z.object({
  kind: z.enum(['filetriggerin', 'filetriggerun', 'filetriggerpostun']),
  ...script,
  scope: z.enum(['package', 'transaction']),
  priority: count,
  prefixes: z.array(text),
});

const digest = z.object({
  scope: z.enum(['header', 'payload', 'header+payload', 'archive']),
  algorithm: text,
  expected: text,
  actual: text.nullable(),
  status: z.enum(['ok', 'bad', 'unsupported', 'unchecked']),
});

const signature = z.object({
  scope: z.enum(['header', 'header+payload']),
  algorithm: text,
  version: count,
  keyId: text,
  created: count.nullable(),
  status: z.enum(['ok', 'bad', 'nokey', 'unsupported', 'unchecked']),
  reason: text.nullable(),
  signer: text.nullable(),
  fingerprint: text.nullable(),
});

const dependencies = z.array(dependency);

const identityShape = {
  name: text,
  epoch: count.nullable(),
  version: text,
  release: text,
  arch: text,
  os: text,
  isSource: z.boolean(),
  summary: text,
  description: text,
  license: text,
  group: text,
  url: text,
  vendor: text,
  packager: text,
  sourceRpm: text.nullable(),
  buildHost: text,
  buildTime: count.nullable(),
  formatVersion: z.union([z.literal(3), z.literal(4), z.literal(6)]),
  installedSize: count,
  packageSize: count,
  headerRange: z.object({ start: count, end: count }),
  payload: z.object({
    compressor: z.enum(['none', 'gzip', 'bzip2', 'xz', 'lzma', 'zstd']),
    start: count,
    size: count,
    archiveSize: count.nullable(),
  }),
  digests: z.array(digest),
  signatures: z.array(signature),
} satisfies { [Key in keyof RpmIdentity]: z.ZodType<RpmIdentity[Key]> };

/** The type is what the mode says; only a link leads somewhere. */
const file = z
  .object({
    path: text,
    mode: count,
    owner: text,
    group: text,
    size: count,
    mtime: count,
    digest: text.nullable(),
    linkTarget: z.unknown(),
    flags: z.array(
      z.enum([
        ...(['config', 'doc', 'icon', 'missingok', 'noreplace', 'specfile', 'ghost'] as const),
        ...(['license', 'readme', 'pubkey', 'artifact'] as const),
      ]),
    ),
    caps: text.nullable(),
    device: count,
    inode: count,
    nlink: count,
    rdev: count,
  })
  .transform(({ linkTarget, ...rest }) => {
    const type = fileTypeOf(rest.mode);
    return { ...rest, type, linkTarget: type === 'symlink' ? text.parse(linkTarget) : null };
  });

const packageShape = {
  ...identityShape,
  files: z.array(file),
  dependencies: z.object({
    requires: dependencies,
    provides: dependencies,
    conflicts: dependencies,
    obsoletes: dependencies,
    recommends: dependencies,
    suggests: dependencies,
    supplements: dependencies,
    enhances: dependencies,
    orderWithRequires: dependencies,
  }),
  scriptlets: z.array(scriptlet),
  triggers: z.array(trigger),
  fileTriggers: z.array(fileTrigger),
  changelog: z.array(z.object({ author: text, date: count, text })),
  fileDigestAlgorithm: text,
} satisfies { [Key in keyof RpmPackage]: z.ZodType<RpmPackage[Key]> };

/** A package without its lists. */
export const identitySchema: z.ZodType<RpmIdentity> = z.object(identityShape);

/** A package with all that is in it. */
export const packageSchema: z.ZodType<RpmPackage> = z.object(packageShape);
