/**
 * What a TypeScript recipe, shut in a confined child, and kiln say to each other. The child is
 * hostile: kiln reads its messages through these schemas and bounds.
 */
import { z } from 'zod';

/** Descriptors of the child, in the order in which they are handed over. */
export const MESSAGES_FD_INDEX = 0;
export const ANSWERS_FD_INDEX = 1;

/** Characters of a text for people. */
const MAX_TEXT = 64 * 1024;
/** Bytes of one chunk of data, as base64. */
export const CHUNK_BYTES = 64 * 1024;
/** As Linux has it for one argument (MAX_ARG_STRLEN). */
const MAX_ARGUMENT = 128 * 1024;

const id = z
  .int()
  .min(1)
  .max(2 ** 31);
const text = z.string().max(MAX_TEXT);
const argument = z
  .string()
  .max(MAX_ARGUMENT)
  .regex(/^[^\0]*$/);
const data = z.base64().max(Math.ceil((CHUNK_BYTES * 4) / 3) + 4);

/** How a step failed: what the error says, and the command's end if one was behind it. */
const stepFailure = z.object({
  message: text,
  /** Only of an error that is no command's. */
  stack: text.optional(),
  exitCode: z.int().min(0).max(255).nullish(),
  signal: z
    .string()
    .regex(/^SIG[A-Z0-9]{1,12}$/)
    .nullish(),
  isCommand: z.boolean(),
});

export const childMessageSchema = z.discriminatedUnion('type', [
  z.object({ type: z.literal('recipe'), value: z.unknown() }),
  /** Answered on the second pipe, for which the child waits without doing anything else. */
  z.object({ type: z.literal('read'), path: z.string().max(4096) }),
  z.object({
    type: z.literal('spawn'),
    id,
    where: z.enum(['sandbox', 'host']),
    argv: z.array(argument).min(1).max(10_000),
    cwd: argument.max(4096),
    env: z.record(
      z
        .string()
        .regex(/^[^=\0]+$/)
        .max(4096),
      argument,
    ),
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

/** What the child is started with. */
export interface ScriptInput {
  /** The recipe's file name. */
  readonly entry: string;
  readonly parameters: Readonly<Record<string, string>>;
  /** Where `$host` runs; undefined: it is not allowed. */
  readonly hostCwd: string | undefined;
}

/** From kiln to the child. It trusts them. */
export type ParentMessage =
  | {
      readonly type: 'step';
      /** Place in the recipe's steps. */
      readonly index: number;
      readonly workdir: string;
      readonly env: Readonly<Record<string, string>>;
      readonly shell: SandboxShell;
    }
  | { readonly type: 'started'; readonly id: number }
  | { readonly type: 'failed'; readonly id: number; readonly message: string }
  | {
      readonly type: 'output';
      readonly id: number;
      readonly stream: 'stdout' | 'stderr';
      /** base64; null is the end. */
      readonly data: string | null;
    }
  /** The command has taken what it was sent: there may be more. */
  | { readonly type: 'drained'; readonly id: number }
  | {
      readonly type: 'exit';
      readonly id: number;
      readonly code: number | null;
      readonly signal: NodeJS.Signals | null;
    }
  | { readonly type: 'quit' };

export type FileAnswer = { readonly content: string } | { readonly problem: string };

/** The shell of an image, as zx wants it. */
export interface SandboxShell {
  readonly path: string;
  /** Before each command: what makes it fail early. */
  readonly prefix: string;
}
