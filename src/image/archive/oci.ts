import { join } from 'node:path';
import { z } from 'zod';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { readUserFile } from '../../host/files/user-file.ts';

/** OCI image layout (image-layout.md, manifest.md, config.md of the specification 1.1), as far as needed. */

export const MediaType = {
  index: 'application/vnd.oci.image.index.v1+json',
  manifest: 'application/vnd.oci.image.manifest.v1+json',
  config: 'application/vnd.oci.image.config.v1+json',
  layer: 'application/vnd.oci.image.layer.v1.tar',
} as const;

const JSON_LIMIT = 4 * 1024 * 1024;

const descriptorSchema = z.object({
  mediaType: z.string(),
  digest: z.string().regex(/^sha256:[0-9a-f]{64}$/, 'only sha256 digests are read'),
  size: z.int().min(0),
  platform: z.object({ architecture: z.string() }).optional(),
});

const indexSchema = z.object({ manifests: z.array(descriptorSchema).min(1) });

const manifestSchema = z.object({
  config: descriptorSchema,
  layers: z.array(descriptorSchema).max(500),
});

const configSchema = z.object({
  architecture: z.string(),
  config: z
    .object({
      User: z.string().optional(),
      Env: z.array(z.string()).nullish(),
      WorkingDir: z.string().optional(),
      Labels: z.record(z.string(), z.string()).nullish(),
    })
    .optional(),
});

export type OciConfig = z.output<typeof configSchema>;

/** Those that have two names. */
const ARCHITECTURES: readonly (readonly [string, string])[] = [
  ['x86_64', 'amd64'],
  ['aarch64', 'arm64'],
  ['i686', '386'],
];

export function toOciArchitecture(arch: string): string {
  return ARCHITECTURES.find(([rpm]) => rpm === arch)?.[1] ?? arch;
}

export function fromOciArchitecture(arch: string): string {
  return ARCHITECTURES.find(([, oci]) => oci === arch)?.[0] ?? arch;
}

/** @param directory absolute, without links, or a held one: no link of the layout leads out of it */
export async function readOciLayout(directory: string, arch: string) {
  const index = await readJson(directory, join(directory, 'index.json'), indexSchema);
  const wanted = toOciArchitecture(arch);
  const fitting = index.manifests.filter(
    ({ platform }) => platform === undefined || platform.architecture === wanted,
  );
  const descriptor = fitting.find(({ mediaType }) => mediaType === MediaType.manifest);
  if (descriptor === undefined) {
    throw new KilnError('E_OCI', `${directory} holds no image for ${wanted}`, {
      hint: '`skopeo copy --override-arch` makes a layout with one',
    });
  }
  const manifest = await readJson(directory, blobPath(directory, descriptor), manifestSchema);
  const config = await readJson(directory, blobPath(directory, manifest.config), configSchema);
  return { config, layers: manifest.layers };
}

export function blobPath(directory: string, descriptor: { readonly digest: string }): string {
  return join(directory, 'blobs', ...descriptor.digest.split(':'));
}

/** Of a link that a stranger's layout has: an error about what it leads to would quote that. */
export function linkOut(path: string): KilnError {
  return new KilnError('E_OCI', `${path} is not read: a link leads out of the layout`, {
    hint: 'copy the layout so that it has all of its files: `cp -rL FOLDER OTHER`, if you trust its links',
  });
}

async function readJson<Schema extends z.ZodType>(
  directory: string,
  path: string,
  schema: Schema,
): Promise<z.output<Schema>> {
  try {
    const text = readUserFile(path, JSON_LIMIT, 'file', directory).toString('utf8');
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    if (hasErrno(cause, 'EXDEV', 'ELOOP')) throw linkOut(path);
    const why = cause instanceof z.ZodError ? new Error(z.prettifyError(cause)) : cause;
    throw new KilnError('E_OCI', `${path} is not what an OCI layout has there`, {
      cause: why,
      hint: 'copy the image again: `skopeo copy docker://IMAGE oci:FOLDER`',
    });
  }
}
