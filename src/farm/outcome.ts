/** farm.json: what a worker says of a step that it has done. The submitting machine reads it as a stranger's. */
import { z } from 'zod';
import type { ErrorCode } from '../error-codes.ts';
import { isErrorCode } from '../error-codes.ts';
import { imageLockSchema } from '../image/lock.ts';
import { parseJson, sha256 } from './step.ts';

const text = z.string().max(65_536);
const texts = z.array(text).max(100_000);
const worker = z.string().max(255);

const buildSchema = z.strictObject({
  kind: z.literal('kiln-farm-build'),
  format: z.literal(1),
  member: text,
  worker,
  state: z.enum(['built', 'unchanged', 'failed']),
  /** As that of `kiln build`. */
  exitStatus: z.int().min(0).max(255),
  failure: z
    .strictObject({
      code: z.custom<ErrorCode>(isErrorCode, 'an error code of kiln'),
      message: text,
      hint: text.nullable(),
    })
    .nullable(),
  failedPhase: text.nullable(),
  lastLines: texts,
  /** The build root: its digest, and its packages. Null where nothing was built. */
  root: z.strictObject({ digest: sha256, packages: texts }).nullable(),
  requires: texts,
  /** Without the source package. */
  packages: z
    .array(z.strictObject({ file: z.string().regex(/^[A-Za-z0-9_][^/\0]*\.rpm$/), sha256 }))
    .max(10_000),
  durationMs: z.number().min(0),
  /** Milliseconds since 1970: when the worker began and ended. */
  started: z.number(),
  ended: z.number(),
});

/** What came of the build of one package. */
export type BuildOutcome = z.output<typeof buildSchema>;

const scanSchema = z.strictObject({
  kind: z.literal('kiln-farm-scan'),
  format: z.literal(1),
  image: z.strictObject({ id: sha256, lock: imageLockSchema }),
  members: z
    .array(
      z.strictObject({
        name: text,
        requires: texts,
        provides: z.array(
          z.strictObject({
            name: text,
            operator: z.enum(['', '<', '<=', '=', '>=', '>', '<>', '<>=']),
            version: text,
          }),
        ),
        problem: text.nullable(),
      }),
    )
    .max(20_000),
  /** The root that a known member would be built in now; null where it cannot be told. */
  roots: z.array(z.strictObject({ member: text, root: sha256.nullable() })).max(20_000),
});

/** What a scan found. */
export type ScanOutcome = z.output<typeof scanSchema>;

/** What an outcome is called in a step's results. */
export const OUTCOME_FILE = 'farm.json';

/** Bytes of one. */
export const MAX_OUTCOME = 256 * 2 ** 20;

/** Undefined for what is none. */
export function parseBuildOutcome(content: string): BuildOutcome | undefined {
  return buildSchema.safeParse(parseJson(content)).data;
}

/** Undefined for what is none. */
export function parseScanOutcome(content: string): ScanOutcome | undefined {
  return scanSchema.safeParse(parseJson(content)).data;
}
