import { join } from 'node:path';
import { z } from 'zod';
import { defined, some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno } from '../../host/calls/libc.ts';
import { readUserFile } from '../../host/files/user-file.ts';
import type { ImageStart } from '../store/manifest.ts';

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

/** No program can be given a NUL. */
const word = z.string().regex(/^[^\0]*$/, 'a word has no NUL');
const words = z.array(word).nullish();
const nanoseconds = z.int().min(0).optional();

/** Docker's: the specification does not have it, but images do. */
const healthcheckSchema = z.object({
  Test: words,
  Interval: nanoseconds,
  Timeout: nanoseconds,
  StartPeriod: nanoseconds,
  Retries: z.int().min(0).optional(),
});

const configSchema = z.object({
  architecture: z.string(),
  config: z
    .object({
      User: z.string().optional(),
      Env: z.array(z.string()).nullish(),
      WorkingDir: z.string().optional(),
      Entrypoint: words,
      Cmd: words,
      ExposedPorts: z.record(z.string(), z.unknown()).nullish(),
      Healthcheck: healthcheckSchema.nullish(),
      Labels: z.record(z.string(), z.string()).nullish(),
    })
    .optional(),
});

export type OciConfig = z.output<typeof configSchema>;

/** What a registry has and a layout made of it has not: HEALTHCHECK, of the text of its configuration. */
export function healthcheckIn(text: string): OciHealthcheck | undefined {
  const config = attempt(() => configSchema.parse(JSON.parse(text)));
  return config?.config?.Healthcheck ?? undefined;
}

export type OciHealthcheck = z.output<typeof healthcheckSchema>;

/** Nanoseconds of a millisecond. */
const MILLISECOND = 1_000_000;

/** What an image says of how it is started, as its manifest has it. */
export function startOf(config: OciConfig['config']): ImageStart {
  const { Entrypoint, Cmd, ExposedPorts, Healthcheck } = config ?? {};
  const time = (value: number | undefined) => value && Math.round(value / MILLISECOND);
  return defined({
    entrypoint: some(Entrypoint ?? []),
    command: some(Cmd ?? []),
    exposed: some(Object.keys(ExposedPorts ?? {})),
    healthcheck:
      Healthcheck &&
      defined({
        test: Healthcheck.Test ?? [],
        interval: time(Healthcheck.Interval),
        timeout: time(Healthcheck.Timeout),
        startPeriod: time(Healthcheck.StartPeriod),
        retries: Healthcheck.Retries,
      }),
  }) as ImageStart;
}

/** The opposite of {@link startOf}. */
export function ociStart({ entrypoint, command, exposed, healthcheck }: ImageStart): object {
  const time = (value: number | undefined) => value && value * MILLISECOND;
  return defined({
    Entrypoint: entrypoint,
    Cmd: command,
    ExposedPorts: exposed && Object.fromEntries(exposed.map((port) => [port, {}])),
    Healthcheck:
      healthcheck &&
      defined({
        Test: healthcheck.test,
        Interval: time(healthcheck.interval),
        Timeout: time(healthcheck.timeout),
        StartPeriod: time(healthcheck.startPeriod),
        Retries: healthcheck.retries,
      }),
  });
}

/** Those that have two names. */
const ARCHITECTURES: readonly (readonly [string, string])[] = [
  ['x86_64', 'amd64'],
  ['aarch64', 'arm64'],
  ['i686', '386'],
  ['armv7hl', 'arm'],
  ['loongarch64', 'loong64'],
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
