/** Decoding what zstd has compressed, hostile or not. */
import koffi from 'koffi';
import { type Pointer, typed } from '../calls/c-library.ts';
import { attempt } from '../calls/libc.ts';

/*
 * zstd through the system's own libzstd, which rpm needs anyway. Each piece that Node's decoder yields is new
 * memory, and freeing that takes V8 longer than decoding. Source: the stable part of zstd.h.
 */

/** What rpmbuild can write at most (zstd -19 --long=27); the window takes as much memory. */
const WINDOW_LOG = 27;
/** ZSTD_d_windowLogMax of zstd.h. */
const WINDOW_LOG_MAX = 100;

const WINDOW = 1024 * 1024;

/** ZSTD_inBuffer and ZSTD_outBuffer: a pointer, the size of what it points to, a position in it. */
const BUFFER_SIZE = 24;
const Field = { pointer: 0, size: 8, position: 16 };

/** ZSTD_reset_session_only of zstd.h: forgets the frame, keeps the memory and the parameters. */
const RESET_SESSION = 1;

type Library = ReturnType<typeof bind>;

let library: Library | undefined;

/** Loads the library if it is installed. A confined child must do it before it shuts itself in. */
export function loadZstd(): void {
  // Without it, decoding is refused.
  library = attempt(bind);
}

function bind() {
  // Deep: Node exports a zstd of its own, which would answer the library's calls to itself, and
  // one's structures are not those of the other's version.
  return typed(koffi.load('libzstd.so.1', { deep: true }), {
    create: 'void *ZSTD_createDCtx()',
    reset: 'size_t ZSTD_DCtx_reset(void *context, int what)',
    step: 'size_t ZSTD_decompressStream(void *context, void *output, void *input)',
    limitWindow: 'size_t ZSTD_DCtx_setParameter(void *context, int parameter, int value)',
    isError: 'uint ZSTD_isError(size_t code)',
  });
}

/** Some megabytes, which are kept, so that the kernel clears them once and not for each package. */
interface Decoder {
  readonly context: Pointer;
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

/** What decoding throws. */
export interface ZstdErrors {
  readonly missing: () => Error;
  readonly damaged: () => Error;
}

/**
 * Decodes frames that follow each other: pzstd writes many, and Node's decoder drops those that begin in a piece in
 * which another one ends. A piece is valid until the next one is asked for.
 */
export function* decodeZstd(
  input: Iterable<Buffer>,
  { missing, damaged }: ZstdErrors,
): Generator<Buffer, void, undefined> {
  if (library === undefined) throw missing();
  const { isError, step } = library;
  const decoder = takeDecoder(library);
  const { context, window } = decoder;
  try {
    const [from, to] = [Buffer.alloc(BUFFER_SIZE), Buffer.alloc(BUFFER_SIZE)];
    to.writeBigUInt64LE(koffi.address(window), Field.pointer);
    to.writeBigUInt64LE(BigInt(WINDOW), Field.size);
    let wanted: number | bigint = 0;
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
    if (Number(wanted) !== 0) throw damaged();
  } finally {
    spare = decoder;
  }
}

function position(buffer: Buffer): number {
  return Number(buffer.readBigUInt64LE(Field.position));
}
