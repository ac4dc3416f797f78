/**
 * Writes a signed copy of a package. Runs on the host and reads nothing of the package but the
 * sizes of its main header: it copies bytes between offsets that a confined child told.
 */

import { createHash } from 'node:crypto';
import { read, write } from 'node:fs';
import { promisify } from 'node:util';
import { z } from 'zod';
import { isKilnCode, type KilnError } from '../../../errors.ts';
import { fileError, rebuildError } from '../../../host/confine/frame.ts';
import { FAULTS_OF_A_FILE, runConfined } from '../../../host/confine/run.ts';
import { readInto } from '../../../host/files/content.ts';
import { INTRO_SIZE, type RawEntry, readIntro } from '../header.ts';
import { rpmError } from '../package.ts';
import { HEADER_LIMITS, LEAD_SIZE } from '../sections.ts';
import { encodeSignatureHeader, type PackageSigner, withSignature } from './signing-key.ts';

const readAt = promisify(read);
const writeAt = promisify(write);

const PIECE = 1024 * 1024;

/**
 * Copies the package that `source` has open into the empty file `target`, with a new signature in place of all that it
 * had. What is signed are the very bytes that are written.
 * @throws KilnError E_RPM_FORMAT when there is no header where `parts` says, E_SIGN_KEY; the signal's reason
 */
export async function writeSigned(
  source: number,
  target: number,
  parts: SignableParts,
  signer: PackageSigner,
  signal?: AbortSignal,
) {
  const { headerStart, headerEnd, format, entries } = parts;
  const lead = readWhole(source, 0, LEAD_SIZE);
  const length = headerEnd - headerStart;
  // A hostile package may control the child: sign nothing but a header.
  if (headerStart < LEAD_SIZE || length < INTRO_SIZE) throw noHeader();
  const intro = readWhole(source, headerStart, INTRO_SIZE);
  if (readIntro(intro, 'header', HEADER_LIMITS).size !== length) throw noHeader();
  const header = readWhole(source, headerStart, length);
  const signature = await signer.sign(header);

  const from = createHash('sha256');
  const to = createHash('sha256');
  let size = 0;
  const put = async (bytes: Buffer) => {
    to.update(bytes);
    size += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      at += (await writeAt(target, bytes, at, bytes.length - at, null)).bytesWritten;
    }
  };
  await put(lead);
  await put(encodeSignatureHeader(withSignature(entries, format, signature)));
  await put(header);
  from.update(lead);
  for await (const piece of pieces(source, LEAD_SIZE, headerStart)) from.update(piece);
  from.update(header);
  for await (const piece of pieces(source, headerEnd, Number.POSITIVE_INFINITY)) {
    signal?.throwIfAborted();
    from.update(piece);
    await put(piece);
  }
  return { from: from.digest('hex'), sha256: to.digest('hex'), size };
}

async function* pieces(fd: number, start: number, end: number): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafe(PIECE);
  for (let at = start; at < end; ) {
    const { bytesRead } = await readAt(fd, buffer, 0, Math.min(PIECE, end - at), at);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

function readWhole(fd: number, start: number, length: number): Buffer {
  const bytes = readInto(Buffer.alloc(length), fd, start);
  if (bytes.length < length) throw noHeader();
  return bytes;
}

function noHeader() {
  return rpmError('E_RPM_FORMAT', 'the header is not where it was found before');
}

/** Of a signature header, bytes: rpm's own limit. */
const MAX_DATA = 64 * 1024 * 1024;

interface SignableParts {
  readonly headerStart: number;
  readonly headerEnd: number;
  readonly format: number;
  readonly entries: readonly RawEntry[];
}

type Signable = { readonly index: number } & (
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

/** @param nameOf of a file, for the error if the child dies of it */
export async function* takeApart(
  fds: readonly number[],
  signal: AbortSignal | undefined,
  nameOf: (index: number) => string,
): AsyncGenerator<Signable, void, undefined> {
  let next = 0;
  const results = runConfined<Signable>({
    task: 'rpm-sign',
    input: null,
    fds,
    signal,
    validate: (value) => {
      const { index, parts, error } = messageSchema.parse(value);
      if (index !== next || index >= fds.length) throw new TypeError(`file ${index} is not next`);
      next++;
      if (error !== undefined) return { index, error: rebuildError(error) };
      if (parts === undefined) throw new TypeError('neither parts nor an error');
      return { index, parts };
    },
  });
  try {
    yield* results;
  } catch (error) {
    const isAtFile = next < fds.length && isKilnCode(error, ...FAULTS_OF_A_FILE);
    throw isAtFile ? fileError(nameOf(next), error) : error;
  }
}
