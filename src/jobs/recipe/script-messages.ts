/** What the confined child of a TypeScript recipe may say. It is hostile. */
import { z } from 'zod';
import { CHUNK_BYTES } from './script-protocol.ts';

const MAX_TEXT = 64 * 1024;
/** As Linux has it for one argument (MAX_ARG_STRLEN). */
const MAX_ARGUMENT = 128 * 1024;

const id = z.int().min(1).max(0x80000000);
const text = z.string().max(MAX_TEXT);
const argument = z
  .string()
  .max(MAX_ARGUMENT)
  .regex(/^[^\0]*$/);
const variable = z
  .string()
  .max(4096)
  .regex(/^[^=\0]+$/);
const signalName = z.string().regex(/^SIG[A-Z0-9]{1,12}$/);
const data = z.base64().max(Math.ceil((CHUNK_BYTES * 4) / 3) + 4);

const stepFailure = z.object({
  message: text,
  stack: text.optional(),
  exitCode: z.int().min(0).max(255).nullish(),
  signal: signalName.nullish(),
  isCommand: z.boolean(),
});

export const childMessageSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('recipe'), value: z.unknown() }),
  /** Answered on the second pipe, for which the child waits synchronously. */
  z.object({ type: z.literal('read'), path: z.string().max(4096) }),
  z.object({
    type: z.literal('spawn'),
    id,
    where: z.enum(['sandbox', 'host']),
    argv: z.array(argument).min(1).max(10_000),
    cwd: argument.max(4096),
    env: z.record(variable, argument),
  }),
  z.object({ type: z.literal('stdin'), id, data }),
  z.object({ type: z.literal('stdin-end'), id }),
  z.object({ type: z.literal('kill'), id, signal: z.int().min(0).max(64) }),
  z.object({ type: z.literal('log'), data }),
  z.object({ type: z.literal('step-done'), failure: stepFailure.optional() }),
]);

export type ChildMessage = z.output<typeof childMessageSchema>;
export type SpawnMessage = Extract<ChildMessage, { type: 'spawn' }>;
export type StepFailure = z.output<typeof stepFailure>;
