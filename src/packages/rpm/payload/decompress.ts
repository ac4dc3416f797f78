/** The payload's bytes, decompressed, in pieces of up to 1 MiB. */
import { readSync } from 'node:fs';
import { type Duplex, Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import koffi from 'koffi';
import { rpmError } from '../errors.ts';
import type { RpmPayload } from '../package.ts';
import { decodeNative } from './native-codec.ts';

/*
 * zstd through the system's own libzstd, which rpm, dpkg and systemd need anyway. Node has a decoder,
 * too, but each piece that comes out of it is new memory, and freeing that takes V8 longer than
 * decoding. Source: zstd.h, all of it the stable part.
 */

/** What rpmbuild can write at most (zstd -19 --long=27); the window takes as much memory. */
const WINDOW_LOG = 27;
/** ZSTD_d_windowLogMax of zstd.h. */
const WINDOW_LOG_MAX = 100;

/** Bytes decoded at a time. */
const WINDOW = 1024 * 1024;

/** ZSTD_inBuffer and ZSTD_outBuffer: a pointer, the size of what it points to, a position in it. */
const BUFFER_SIZE = 24;
const Field = { pointer: 0, size: 8, position: 16 };

type Size = number | bigint;

/** ZSTD_reset_session_only of zstd.h: forgets the frame, keeps the memory and the parameters. */
const RESET_SESSION = 1;

interface Library {
  readonly create: () => unknown;
  readonly reset: (context: unknown, what: number) => Size;
  readonly step: (context: unknown, output: Buffer, input: Buffer) => Size;
  readonly limitWindow: (context: unknown, parameter: number, log: number) => Size;
  readonly isError: (code: Size) => number;
}

let library: Library | undefined;

/** Loads the library if it is installed. A confined child must do it before it shuts itself in. */
export function loadZstd(): void {
  let handle: ReturnType<typeof koffi.load>;
  try {
    // Deep: Node exports a zstd of its own, which would answer the library's calls to itself, and
    // one's structures are not those of the other's version.
    handle = koffi.load('libzstd.so.1', { deep: true });
  } catch {
    // E_RPM_UNSUPPORTED when a package needs it.
    return;
  }
  library = {
    create: handle.func('void *ZSTD_createDCtx(void)'),
    reset: handle.func('size_t ZSTD_DCtx_reset(void *context, int what)'),
    step: handle.func('size_t ZSTD_decompressStream(void *context, void *output, void *input)'),
    limitWindow: handle.func(
      'size_t ZSTD_DCtx_setParameter(void *context, int parameter, int value)',
    ),
    isError: handle.func('unsigned int ZSTD_isError(size_t code)'),
  };
}

/** What decoding takes, some megabytes: it is kept, for the kernel to clear it once, not for each package. */
interface Decoder {
  readonly context: unknown;
  readonly window: Buffer;
}

let spare: Decoder | undefined;

function takeDecoder({ create, reset, limitWindow }: Library): Decoder {
  const kept = spare;
  spare = undefined;
  if (kept !== undefined) {
    reset(kept.context, RESET_SESSION);
    return kept;
  }
  const context = create();
  limitWindow(context, WINDOW_LOG_MAX, WINDOW_LOG);
  return { context, window: Buffer.allocUnsafeSlow(WINDOW) };
}

/**
 * Decodes frames that follow each other (pzstd writes many). Pieces it yields are valid until the
 * next one is asked for, pieces of `input` need not be valid for longer.
 * @throws KilnError E_RPM_FORMAT for damaged data, E_RPM_UNSUPPORTED when the library is missing.
 */
function* decodeZstd(input: Iterable<Buffer>): Generator<Buffer, void, undefined> {
  if (library === undefined) {
    throw rpmError('E_RPM_UNSUPPORTED', 'its payload is zstd, but libzstd is missing', {
      hint: 'install libzstd',
    });
  }
  const { isError, step } = library;
  const decoder = takeDecoder(library);
  const { context, window } = decoder;
  try {
    const [from, to] = [Buffer.alloc(BUFFER_SIZE), Buffer.alloc(BUFFER_SIZE)];
    to.writeBigUInt64LE(koffi.address(window), Field.pointer);
    to.writeBigUInt64LE(BigInt(WINDOW), Field.size);
    let wanted: Size = 0;
    for (const piece of input) {
      from.writeBigUInt64LE(koffi.address(piece), Field.pointer);
      from.writeBigUInt64LE(BigInt(piece.length), Field.size);
      from.writeBigUInt64LE(0n, Field.position);
      for (let full = true; full || position(from) < piece.length; ) {
        to.writeBigUInt64LE(0n, Field.position);
        wanted = step(context, to, from);
        if (isError(wanted) !== 0) throw damaged();
        const count = position(to);
        full = count === WINDOW;
        if (count > 0) yield window.subarray(0, count);
      }
    }
    // Bytes of a frame are still to come.
    if (Number(wanted) !== 0) throw damaged();
  } finally {
    spare = decoder;
  }
}

function position(buffer: Buffer): number {
  return Number(buffer.readBigUInt64LE(Field.position));
}

function damaged() {
  return rpmError('E_RPM_FORMAT', 'its payload is damaged: it cannot be decompressed');
}

/** Larger than Node's default of 16 KiB, by far: that takes half as long again. */
const PIECE = 1024 * 1024;
const READ = 256 * 1024;

/**
 * Yields the archive. A piece is valid until the next one is asked for. Stopping early is fine.
 * @throws KilnError E_RPM_FORMAT when the compressed data is damaged or cut off.
 */
export async function* decompressPayload(
  fd: number,
  { compressor, start }: Pick<RpmPayload, 'compressor' | 'start'>,
): AsyncGenerator<Buffer, void, undefined> {
  switch (compressor) {
    case 'none':
      yield* compressedPieces(fd, start);
      break;
    case 'gzip':
      // A decoder's thread reads a piece later than it is given: each has memory of its own.
      yield* through(
        compressedPieces(fd, start, () => Buffer.allocUnsafe(READ)),
        createGunzip({ chunkSize: PIECE }),
      );
      break;
    case 'zstd':
      yield* decodeZstd(compressedPieces(fd, start));
      break;
    default:
      yield* decodeNative(compressor, compressedPieces(fd, start));
  }
}

let memory: Buffer | undefined;

/** Always the same: new memory for every piece keeps V8 busy with freeing it. */
function sameMemory(): Buffer {
  memory ??= Buffer.allocUnsafeSlow(READ);
  return memory;
}

/** The file from `start` on, in pieces that are valid until the next one is asked for. */
function* compressedPieces(fd: number, start: number, memoryOf = sameMemory): Generator<Buffer> {
  for (let at = start; ; ) {
    const piece = memoryOf();
    const count = readSync(fd, piece, 0, READ, at);
    if (count === 0) return;
    yield piece.subarray(0, count);
    at += count;
  }
}

async function* through(pieces: Iterable<Buffer>, decoder: Duplex): AsyncGenerator<Buffer> {
  const input = Readable.from(pieces, { highWaterMark: 2 });
  input.on('error', (error) => decoder.destroy(error));
  input.pipe(decoder);
  try {
    yield* decoder;
  } catch (cause) {
    throw rpmError('E_RPM_FORMAT', 'its payload is damaged: it cannot be decompressed', { cause });
  } finally {
    input.destroy();
    decoder.destroy();
  }
}
