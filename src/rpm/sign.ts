/**
 * Writes a signed copy of a package. Runs on the host and reads nothing of the package but the
 * sizes of its main header: it copies bytes between offsets that a confined child told.
 */
import { createHash } from 'node:crypto';
import { read, write } from 'node:fs';
import { promisify } from 'node:util';
import { rpmError } from './errors.ts';
import { INTRO_SIZE, readIntro } from './header.ts';
import { HEADER_LIMITS, LEAD_SIZE } from './sections.ts';
import type { SignableParts } from './signable.ts';
import { encodeSignatureHeader, withSignature } from './signature-header.ts';
import type { PackageSigner } from './signing-key.ts';

const readAt = promisify(read);
const writeAt = promisify(write);

/** Bytes copied at a time. */
const PIECE = 1024 * 1024;

/** What was written. Digests are of whole files, lower-case hex. */
export interface SignedCopy {
  /** Of the package as it was read. */
  readonly from: string;
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
}

/**
 * Copies the package that `source` has open into `target`, an empty file, with a new signature in
 * place of all that it had. What is signed are the very bytes that are written.
 * @throws KilnError E_RPM_FORMAT when there is no header where `parts` says; E_SIGN_KEY; the
 * signal's reason; Node's error when `target` cannot be written
 */
export async function writeSigned(
  source: number,
  target: number,
  parts: SignableParts,
  signer: PackageSigner,
  signal?: AbortSignal,
): Promise<SignedCopy> {
  const { headerStart, headerEnd, format, entries } = parts;
  const lead = await readWhole(source, 0, LEAD_SIZE);
  const length = headerEnd - headerStart;
  // The child may be in a package's hands: nothing but a header is ever signed.
  if (headerStart < LEAD_SIZE || length < INTRO_SIZE) throw noHeader();
  const intro = await readWhole(source, headerStart, INTRO_SIZE);
  if (readIntro(intro, 'header', HEADER_LIMITS).size !== length) throw noHeader();
  const header = await readWhole(source, headerStart, length);
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

/** The bytes from `start` to `end` or the end of the file; a piece is good until the next. */
async function* pieces(fd: number, start: number, end: number): AsyncGenerator<Buffer> {
  const buffer = Buffer.allocUnsafe(PIECE);
  for (let at = start; at < end; ) {
    const { bytesRead } = await readAt(fd, buffer, 0, Math.min(PIECE, end - at), at);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

async function readWhole(fd: number, start: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length);
  for (let at = 0; at < length; ) {
    const { bytesRead } = await readAt(fd, bytes, at, length - at, start + at);
    if (bytesRead === 0) throw noHeader();
    at += bytesRead;
  }
  return bytes;
}

function noHeader() {
  return rpmError('E_RPM_FORMAT', 'there is no header where one was found');
}
