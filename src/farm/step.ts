import { z } from 'zod';
import { type ErrorCode, isErrorCode } from '../error-codes.ts';
import { KilnError } from '../errors.ts';
import { reasonLine } from '../host/calls/system-error.ts';
import { isImageName } from '../image/find.ts';
import { imageLockSchema } from '../image/lock.ts';
import { capabilitySchema, parseJson, sha256, text } from '../jobs/chain/records.ts';
import { ASKED_OF_STEPS } from '../options/build.ts';
import type { Row, ValuesOf } from '../options/row.ts';
import { LIMITS } from '../options/sandbox.ts';

const texts = z.array(text).max(100_000);
const name = z.string().regex(/^[A-Za-z0-9_][^/\s\0]{0,254}$/);
const count = z.number().positive();

export function isPackageName(value: string): boolean {
  return /^[^/-][^/]*$/.test(value);
}

function jsonOf(name: string, { kind, many }: Row): z.ZodType {
  if (Object.hasOwn(LIMITS, name)) return count;
  if (kind.term === undefined) return z.boolean();
  if (kind.choices !== undefined) return z.enum(kind.choices);
  return many ? texts : text;
}

const asked = Object.entries<Row>(ASKED_OF_STEPS).map(([name, row]) => [
  name,
  jsonOf(name, row).exactOptional(),
]);

export interface StepOptions extends Partial<ValuesOf<typeof ASKED_OF_STEPS>> {
  readonly samples?: boolean;
  readonly sourceDateEpoch?: number;
}

export const optionsSchema = z.strictObject({
  ...Object.fromEntries(asked),
  packages: z
    .array(z.string().refine(isPackageName, 'the name of a package, not a file'))
    .exactOptional(),
  samples: z.boolean().exactOptional(),
  sourceDateEpoch: z.number().exactOptional(),
}) as z.ZodType<StepOptions>;

const knownSchema = z.strictObject({
  member: name,
  requires: texts,
  additionalPackages: texts,
  root: sha256,
});

/** What would be built in the same root is not built again. */
export type KnownBuild = z.output<typeof knownSchema>;

const stepSchema = z.strictObject({
  kind: z.literal('kiln-farm-step'),
  format: z.literal(1),
  chain: z.string().regex(/^[0-9a-f]{1,64}$/),
  task: z.enum(['scan', 'build']),
  image: z.strictObject({
    name: z.string().refine(isImageName, 'the name of an image, not a file'),
    /** Null for a scan, which finds it out. */
    id: sha256.nullable(),
    lock: imageLockSchema.nullable(),
  }),
  members: z.array(z.strictObject({ name, file: name, sha256 })).max(20_000),
  results: z.strictObject({ folder: name, snapshot: sha256 }).nullable(),
  options: optionsSchema,
  known: z.array(knownSchema).max(20_000),
});

export type Step = z.output<typeof stepSchema>;

export const STEP_FILE = 'step.json';

/** Bytes, of an outcome as well: a lock of 10,000 packages takes 5 MB. */
export const MAX_STEP = 256 * 2 ** 20;

/** Equal steps give equal bytes. What a file of steps begins with is the same for all. */
export function serializeStep(step: Omit<Step, 'kind' | 'format'>): string {
  const whole = stepSchema.parse({ kind: 'kiln-farm-step', format: 1, ...step });
  return `${JSON.stringify(whole, undefined, 1)}\n`;
}

/** @param origin what messages call it @throws KilnError E_FARM_STEP with the first thing that is wrong */
export function parseStep(content: string, origin: string): Step {
  const step = stepSchema.safeParse(parseJson(content));
  if (step.success && (step.data.task === 'scan' || step.data.members.length === 1)) {
    return step.data;
  }
  const why = step.success ? 'it builds one package, no more' : reasonLine(step.error);
  throw new KilnError('E_FARM_STEP', `${origin} is not a step that this kiln can do: ${why}`, {
    hint: '`kiln build --chain --farm` writes steps; this worker and the submitting machine need the same kiln',
  });
}

/** What `kiln farm step` ends with, for whoever schedules steps: sysexits.h. */
export const STEP_STATUS = {
  done: 0,
  /** EX_DATAERR: another machine would say the same. */
  package: 65,
  /** EX_TEMPFAIL: another machine, or this one later, may do it. */
  machine: 75,
} as const;

export function stepStatus(buildStatus: number): number {
  if (buildStatus === 0) return STEP_STATUS.done;
  return buildStatus === 125 || buildStatus === 130 ? STEP_STATUS.machine : STEP_STATUS.package;
}

const worker = z.string().max(255);

const buildSchema = z.strictObject({
  kind: z.literal('kiln-farm-build'),
  format: z.literal(1),
  member: text,
  worker,
  state: z.enum(['built', 'unchanged', 'failed']),
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
  root: z.strictObject({ digest: sha256, packages: texts }).nullable(),
  requires: texts,
  packages: z
    .array(z.strictObject({ file: z.string().regex(/^[A-Za-z0-9_][^/\0]*\.rpm$/), sha256 }))
    .max(10_000),
  durationMs: z.number().min(0),
  /** Milliseconds since 1970. */
  started: z.number(),
  ended: z.number(),
});

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
        provides: z.array(capabilitySchema),
        problem: text.nullable(),
      }),
    )
    .max(20_000),
  roots: z.array(z.strictObject({ member: text, root: sha256.nullable() })).max(20_000),
});

export type ScanOutcome = z.output<typeof scanSchema>;

export const OUTCOME_FILE = 'farm.json';

export function parseBuildOutcome(content: string | undefined): BuildOutcome | undefined {
  return buildSchema.safeParse(parseJson(content)).data;
}

export function parseScanOutcome(content: string | undefined): ScanOutcome | undefined {
  return scanSchema.safeParse(parseJson(content)).data;
}
