import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { type Owner, resultDirectoryError } from '../../artifacts/destination.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import { type HeldLock, tryLock } from '../../host/files/flock.ts';
import { Folder, makeDirectory } from '../../host/files/folder.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { hasContent } from '../../packages/repository/cache.ts';
import type { Scan } from './member.ts';

const MAX_RECORD = 64 * 2 ** 20;

export const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
/** Of rpm's headers. */
export const text = z.string().max(65_536);
export const capabilitySchema = z.strictObject({
  name: text,
  operator: z.enum(['', '<', '<=', '=', '>=', '>', '<>', '<>=']),
  version: text,
});

const recordSchema = z.strictObject({
  format: z.literal(1),
  source: sha256,
  options: sha256,
  root: sha256,
  requires: z.array(text),
  uses: z.array(text),
  snapshot: sha256.nullable(),
  packages: z.array(z.strictObject({ file: z.string().regex(/^[^/\0]+\.rpm$/), sha256 })),
  durationMs: z.number().min(0),
});

export type MemberRecord = z.output<typeof recordSchema>;

const scanSchema = z.strictObject({
  format: z.literal(1),
  /** The digest of source package, options and base image. */
  key: sha256,
  requires: z.array(text),
  provides: z.array(capabilitySchema),
  problem: text.optional(),
});

type ScanRecord = z.output<typeof scanSchema>;

/**
 * What a chain remembers in its result directory, one file for each fact, each replaced as a whole:
 * it can be killed at any time. What cannot be read is not known.
 *
 *     .kiln/lock               held by the chain that works here
 *     .kiln/built/NAME.json    {@link MemberRecord}
 *     .kiln/scanned/NAME.json  {@link ScanRecord}
 */
export class Records implements Disposable {
  readonly #directory: string;
  readonly #folder: Folder;
  readonly #built: Folder;
  readonly #scanned: Folder;

  private constructor(directory: string, folder: Folder) {
    this.#directory = directory;
    this.#folder = folder;
    this.#built = folder.inner('built');
    this.#scanned = folder.inner('scanned');
  }

  static open(resultDirectory: HeldPath): Records {
    using top = Folder.open(resultDirectory);
    return new Records(resultDirectory, top.inner('.kiln'));
  }

  /** Opens the records of a result directory, which is made for `owner`. @throws KilnError E_RESULTDIR */
  static make(resultDirectory: HeldPath, owner: Owner): Records {
    try {
      makeDirectory(resultDirectory, owner);
      return Records.open(resultDirectory);
    } catch (cause) {
      throw resultDirectoryError(resultDirectory, cause);
    }
  }

  /** Locks the directory for one chain. @throws KilnError E_CHAIN_BUSY, E_RESULTDIR */
  async lock(): Promise<HeldLock> {
    const file = join(this.#folder.path, 'lock');
    const lock = await tryLock(file).catch((error) => {
      const found = lstatSync(file, { throwIfNoEntry: false });
      if (found === undefined || found.isFile()) throw error;
      const path = join(this.#directory, '.kiln/lock');
      throw new KilnError('E_RESULTDIR', `${path} cannot be locked: it is not a plain file`, {
        hint: 'remove it: kiln makes it again',
      });
    });
    return lock ?? refuseBusy(this.#directory, 'wait for its end, or name another --resultdir');
  }

  builtFrom(
    { name, sha256: source }: { readonly name: string; readonly sha256: string },
    options: string,
  ): MemberRecord | undefined {
    const record = recordSchema.safeParse(read(this.#built, name)).data;
    return record?.source === source && record.options === options ? record : undefined;
  }

  keepBuilt(member: string, record: MemberRecord): void {
    this.#built.replace(`${member}.json`, JSON.stringify(recordSchema.parse(record)));
  }

  forgetBuilt(member: string): void {
    this.#built.remove(`${member}.json`);
  }

  scanned(member: string): ScanRecord | undefined {
    return scanSchema.safeParse(read(this.#scanned, member)).data;
  }

  keepScanned(member: string, key: string, { requires, provides, problem }: Scan): void {
    const record = scanSchema.parse({ format: 1, key, requires, provides, problem });
    this.#scanned.replace(`${member}.json`, JSON.stringify(record));
  }

  [Symbol.dispose](): void {
    for (const folder of [this.#built, this.#scanned, this.#folder]) folder[Symbol.dispose]();
  }
}

/** @throws KilnError E_CHAIN_BUSY */
export function refuseBusy(resultDirectory: string, hint: string): never {
  throw new KilnError('E_CHAIN_BUSY', `another chain works in ${resultDirectory}`, { hint });
}

export async function packagesAreThere(directory: string, record: MemberRecord): Promise<boolean> {
  for (const { file, sha256: digest } of record.packages) {
    if (!(await hasContent(join(directory, file), `sha256:${digest}`))) return false;
  }
  return true;
}

function read(folder: Folder, member: string): unknown {
  return parseJson(folder.read(`${member}.json`, MAX_RECORD));
}

/** Undefined where it is none. */
export function parseJson(content: string | undefined): unknown {
  return attempt(() => JSON.parse(content ?? ''));
}
