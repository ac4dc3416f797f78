/** step.json: one step of a chain as a file, which any worker can do. docs/farm.md describes it. */
import { z } from 'zod';
import { KilnError } from '../errors.ts';
import { reasonLine } from '../host/calls/system-error.ts';
import { imageLockSchema } from '../image/lock.ts';

/** Hex. */
export const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
/** Of rpm's headers; as long as chain records take them. */
const text = z.string().max(65_536);
const texts = z.array(text).max(100_000);
/** A name in a folder. */
const name = z.string().regex(/^[A-Za-z0-9_][^/\s\0]{0,254}$/);
const count = z.number().positive();

export const optionsSchema = z.strictObject({
  defines: texts.exactOptional(),
  with: texts.exactOptional(),
  without: texts.exactOptional(),
  nocheck: z.boolean().exactOptional(),
  target: text.exactOptional(),
  rpmbuildOptions: texts.exactOptional(),
  shortCircuit: z.enum(['build', 'install', 'binary']).exactOptional(),
  additionalPackages: z
    .array(z.string().regex(/^[^/-][^/]*$/, 'the name of a package, not a file'))
    .exactOptional(),
  limits: z
    .strictObject({
      memory: count.exactOptional(),
      cpus: count.exactOptional(),
      pids: count.exactOptional(),
      ioRead: count.exactOptional(),
      ioWrite: count.exactOptional(),
    })
    .exactOptional(),
  disk: count.exactOptional(),
  time: z
    .strictObject({ timeout: count.exactOptional(), stallTimeout: count.exactOptional() })
    .exactOptional(),
  postinstall: z.boolean().exactOptional(),
  offline: z.boolean().exactOptional(),
  update: z.boolean().exactOptional(),
  provenance: z
    .strictObject({ builder: text.exactOptional(), sourceDateEpoch: z.number().exactOptional() })
    .exactOptional(),
});

/** The options of a build that travel: nothing that names a file, a key or a network of one machine. */
export type StepOptions = z.output<typeof optionsSchema>;

const knownSchema = z.strictObject({
  member: name,
  requires: texts,
  additionalPackages: texts,
  /** Of the build root that it was built in: see build/chain/freshness.ts. */
  root: sha256,
});

/** How a member was built before: what would be built in the same root is not built again. */
export type KnownBuild = z.output<typeof knownSchema>;

const stepSchema = z.strictObject({
  kind: z.literal('kiln-farm-step'),
  format: z.literal(1),
  /** The id of the chain, for people. */
  chain: z.string().regex(/^[0-9a-f]{1,64}$/),
  /** `scan`: say what the source packages require, and which image they are built in. */
  task: z.enum(['scan', 'build']),
  image: z.strictObject({
    /** Of a recipe that the worker has, too. */
    name: z.string().regex(/^[A-Za-z0-9][\w.+-]{0,200}$/),
    /** What the image must be; null for a scan, which finds it out. */
    id: sha256.nullable(),
    lock: imageLockSchema.nullable(),
  }),
  /** Source packages, beside the step. A build has one. */
  members: z
    .array(z.strictObject({ name, file: name, sha256 }))
    .min(1)
    .max(20_000),
  /** A folder beside the step: the snapshot of the chain's repository. */
  results: z.strictObject({ folder: name, snapshot: sha256 }).nullable(),
  options: optionsSchema,
  known: z.array(knownSchema).max(20_000),
});

/** A frozen plan of one step. */
export type Step = z.output<typeof stepSchema>;

/** What a step is called in its folder. */
export const STEP_FILE = 'step.json';

/** Bytes: a lock of 10,000 packages takes 5 MB. */
export const MAX_STEP = 256 * 2 ** 20;

/** The text of a step. Equal steps give equal bytes. */
export function serializeStep(step: Step): string {
  return `${JSON.stringify(stepSchema.parse(step), undefined, 1)}\n`;
}

/** @param origin what messages call it @throws KilnError E_FARM_STEP with the first thing that is wrong */
export function parseStep(content: string, origin: string): Step {
  const step = stepSchema.safeParse(parseJson(content));
  if (step.success && (step.data.task === 'scan' || step.data.members.length === 1)) {
    return step.data;
  }
  const why = step.success ? 'it builds more than one package' : reasonLine(step.error);
  throw new KilnError('E_FARM_STEP', `${origin} is not a step that this kiln can do: ${why}`, {
    hint: '`kiln build --chain --farm` writes steps; this worker and the submitting machine need the same kiln',
  });
}

/** A value, or undefined for what is no JSON: the schema says so. */
export function parseJson(content: string): unknown {
  try {
    return JSON.parse(content);
  } catch {
    return undefined;
  }
}
