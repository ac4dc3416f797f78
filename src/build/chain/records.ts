import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { hasContent, writeWhole } from '../../repository/cache.ts';

const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const text = z.string().max(65536);
const capability = z.strictObject({
  name: text,
  operator: z.enum(['', '<', '<=', '=', '>=', '>', '<>', '<>=']),
  version: text,
});

const recordSchema = z.strictObject({
  format: z.literal(1),
  /** Of the source package. */
  source: sha256,
  /** Of the options that it was built with. */
  options: sha256,
  /** Of everything in the build root: see freshness.ts. */
  root: sha256,
  /** Static and dynamic, as the build found them. */
  requires: z.array(text),
  /** Members whose packages were in the build root. */
  uses: z.array(text),
  /** Snapshot of the repository that the build was given, and its lock names. */
  snapshot: sha256.nullable(),
  packages: z.array(z.strictObject({ file: z.string().regex(/^[^/\0]+\.rpm$/), sha256 })),
  durationMs: z.number().min(0),
});

/** A build of a chain that went well: written when everything else is in its place. */
export type MemberRecord = z.output<typeof recordSchema>;

const scanSchema = z.strictObject({
  format: z.literal(1),
  /** Of the source package, the options and the base image. */
  key: sha256,
  requires: z.array(text),
  provides: z.array(capability),
  problem: text.optional(),
});

/** What a spec said, and when it would say something else. */
export type ScanRecord = z.output<typeof scanSchema>;

/**
 * What a chain remembers in its result directory, one file for each fact, each replaced as a whole:
 * it can be killed at any time. What cannot be read is not known.
 *
 *     .kiln/lock               held by the chain that works here
 *     .kiln/built/NAME.json    {@link MemberRecord}
 *     .kiln/scanned/NAME.json  {@link ScanRecord}
 */
export class Records {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  static async open(resultDirectory: string): Promise<Records> {
    const directory = join(resultDirectory, '.kiln');
    for (const name of ['built', 'scanned']) {
      await mkdir(join(directory, name), { recursive: true, mode: 0o755 });
    }
    return new Records(directory);
  }

  get lockFile(): string {
    return join(this.#directory, 'lock');
  }

  built(member: string): Promise<MemberRecord | undefined> {
    return readJson(this.#file('built', member), recordSchema);
  }

  async keepBuilt(member: string, record: MemberRecord): Promise<void> {
    await writeWhole(this.#file('built', member), JSON.stringify(recordSchema.parse(record)));
  }

  /** From here on it counts as not built. */
  async forgetBuilt(member: string): Promise<void> {
    await rm(this.#file('built', member), { force: true });
  }

  scanned(member: string): Promise<ScanRecord | undefined> {
    return readJson(this.#file('scanned', member), scanSchema);
  }

  async keepScanned(member: string, record: ScanRecord): Promise<void> {
    await writeWhole(this.#file('scanned', member), JSON.stringify(scanSchema.parse(record)));
  }

  #file(folder: 'built' | 'scanned', member: string): string {
    return join(this.#directory, folder, `${member}.json`);
  }
}

/** Whether what a record says was made is still there, unchanged. */
export async function packagesAreThere(directory: string, record: MemberRecord): Promise<boolean> {
  for (const { file, sha256: digest } of record.packages) {
    if (!(await hasContent(join(directory, file), `sha256:${digest}`))) return false;
  }
  return true;
}

async function readJson<Value>(path: string, schema: z.ZodType<Value>): Promise<Value | undefined> {
  try {
    return schema.safeParse(JSON.parse(await readFile(path, 'utf8'))).data;
  } catch {
    return undefined;
  }
}
