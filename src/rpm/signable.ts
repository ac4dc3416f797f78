/** Packages taken apart by a confined child, for a signature to be put between the parts. */
import { z } from 'zod';
import { rebuildError } from '../confine/flat-error.ts';
import { runConfined } from '../confine/run.ts';
import type { KilnError } from '../errors.ts';
import type { RawEntry } from './header.ts';

/** Of a signature header, bytes: rpm's own limit. */
const MAX_DATA = 64 * 1024 * 1024;

/** What is to be known of a package to sign it. Nothing of it is verified. */
export interface SignableParts {
  /** Byte offsets of the main header, which the signature covers. */
  readonly headerStart: number;
  readonly headerEnd: number;
  /** 4 or 6. */
  readonly format: number;
  /** Of the signature header. */
  readonly entries: readonly RawEntry[];
}

/** What came of one package. */
export type Signable = { readonly index: number } & (
  | { readonly parts: SignableParts; readonly error?: never }
  | { readonly error: KilnError; readonly parts?: never }
);

const offset = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const word = z.number().int().min(0).max(0xffffffff);

const partsSchema = z.strictObject({
  headerStart: offset,
  headerEnd: offset,
  format: word,
  entries: z
    .array(
      z.strictObject({
        tag: word,
        type: z.number().int().min(1).max(9),
        count: word,
        data: z.string().transform((text) => Buffer.from(text, 'base64')),
      }),
    )
    // Limit of rpm's, and one more for the signature.
    .max(31)
    .refine((entries) => entries.reduce((sum, { data }) => sum + data.length, 0) <= MAX_DATA),
});

const messageSchema = z.object({
  index: z.number().int().min(0),
  parts: partsSchema.optional(),
  error: z.unknown().optional(),
});

/**
 * Checks the digests of packages, header and payload, and tells their parts, in their order.
 * @param fds Of open packages; at most MAX_FDS of open-files.ts.
 * @throws KilnError E_CONFINE_…; the signal's reason
 */
export async function* takeApart(
  fds: readonly number[],
  signal: AbortSignal | undefined,
): AsyncGenerator<Signable, void, undefined> {
  yield* runConfined<Signable>({
    task: 'rpm-sign',
    input: null,
    fds,
    signal,
    validate: (value) => {
      const { index, parts, error } = messageSchema.parse(value);
      if (index >= fds.length) throw new TypeError(`there is no file ${index}`);
      if (error !== undefined) return { index, error: rebuildError(error) };
      if (parts === undefined) throw new TypeError('neither parts nor an error');
      return { index, parts };
    },
  });
}
