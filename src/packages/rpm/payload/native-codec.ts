/**
 * bzip2, xz and lzma through the system's own libbz2 and liblzma, which rpm needs anyway: both have a struct with an
 * input and an output window. Sources: bzlib.h; lzma/base.h, lzma/container.h.
 */
import koffi, { type LibraryHandle } from 'koffi';
import { attempt } from '../../../host/calls/libc.ts';
import { rpmError } from '../package.ts';

const WINDOW = 1024 * 1024;

/** Dictionaries larger than this are refused (rpm: 100 MiB). */
const LZMA_MEMORY = 256n * 1024n * 1024n;
const LZMA_CONCATENATED = 8;
const LZMA_RUN = 0;
const LZMA_FINISH = 3;

/** BZ_OK, LZMA_OK. */
const OK = 0;

/** Byte offsets in a stream struct of either library on a 64-bit system. */
const Field = { nextIn: 0, availIn: 8, nextOut: 24, availOut: 32 };

interface Codec {
  readonly size: number;
  readonly wide: boolean;
  start(stream: Buffer): number;
  step(stream: Buffer, last: boolean): number;
  end(stream: Buffer): void;
  readonly endCode: number;
  /** Further streams may follow the end of one (as pbzip2 writes them). */
  readonly restarts: boolean;
}

type NativeCompressor = 'bzip2' | 'xz' | 'lzma';

const codecs = new Map<NativeCompressor, Codec>();

/** Loads what is installed. A confined child must do it before it shuts itself in. */
export function loadNativeCodecs(): void {
  const bzip2 = load('libbz2.so.1.0', 'libbz2.so.1');
  if (bzip2 !== undefined) codecs.set('bzip2', bzip2Codec(bzip2));
  const lzma = load('liblzma.so.5');
  if (lzma !== undefined) {
    const open = lzma.func(
      'int lzma_stream_decoder(void *stream, uint64_t memory, uint32_t flags)',
    );
    const openOld = lzma.func('int lzma_alone_decoder(void *stream, uint64_t memory)');
    const xz = lzmaCodec(lzma, (stream) => open(stream, LZMA_MEMORY, LZMA_CONCATENATED));
    codecs.set('xz', xz);
    const old = lzmaCodec(lzma, (stream) => openOld(stream, LZMA_MEMORY));
    codecs.set('lzma', old);
  }
}

function load(...names: readonly string[]): LibraryHandle | undefined {
  for (const name of names) {
    const library = attempt(() => koffi.load(name));
    if (library !== undefined) return library;
  }
  // E_RPM_UNSUPPORTED when a package needs it.
  return undefined;
}

function bzip2Codec(library: LibraryHandle): Codec {
  const init = library.func('int BZ2_bzDecompressInit(void *stream, int verbosity, int small)');
  const step = library.func('int BZ2_bzDecompress(void *stream)');
  const end = library.func('int BZ2_bzDecompressEnd(void *stream)');
  return {
    size: 80,
    wide: false,
    start: (stream) => init(stream, 0, 0),
    step: (stream) => step(stream),
    end: (stream) => end(stream),
    endCode: 4,
    restarts: true,
  };
}

function lzmaCodec(library: LibraryHandle, start: Codec['start']): Codec {
  const step = library.func('int lzma_code(void *stream, int action)');
  const end = library.func('void lzma_end(void *stream)');
  return {
    size: 136,
    wide: true,
    start,
    step: (stream, last) => step(stream, last ? LZMA_FINISH : LZMA_RUN),
    end: (stream) => end(stream),
    endCode: 1,
    restarts: false,
  };
}

export async function* decodeNative(
  compressor: NativeCompressor,
  input: Iterable<Buffer> | AsyncIterable<Buffer>,
): AsyncGenerator<Buffer, void, undefined> {
  const codec = codecs.get(compressor);
  if (codec === undefined) {
    const library = compressor === 'bzip2' ? 'libbz2' : 'liblzma';
    throw rpmError('E_RPM_UNSUPPORTED', `its content is ${compressor}, but ${library} is missing`, {
      hint: `install ${library}`,
    });
  }
  using decoder = new Decoder(compressor, codec);
  for await (const piece of input) yield* decoder.decode(piece, false);
  yield* decoder.decode(Buffer.alloc(0), true);
}

class Decoder implements Disposable {
  readonly #name: string;
  readonly #codec: Codec;
  readonly #stream: Buffer;
  readonly #window = Buffer.allocUnsafe(WINDOW);
  #open = false;

  constructor(name: string, codec: Codec) {
    this.#name = name;
    this.#codec = codec;
    this.#stream = Buffer.alloc(codec.size);
  }

  *decode(piece: Buffer, last: boolean): Generator<Buffer> {
    let left = piece.length;
    for (;;) {
      if (left === 0 && !(last && this.#open)) return;
      this.#begin();
      this.#set(Field.nextIn, Field.availIn, piece, piece.length - left, left);
      this.#set(Field.nextOut, Field.availOut, this.#window, 0, WINDOW);
      const code = this.#codec.step(this.#stream, last);
      left = this.#get(Field.availIn);
      const count = WINDOW - this.#get(Field.availOut);
      if (count > 0) yield this.#window.subarray(0, count);
      if (code === this.#codec.endCode) {
        this[Symbol.dispose]();
        if (!this.#codec.restarts) return;
      } else if (code !== OK || (count === 0 && (left > 0 || last))) {
        throw rpmError('E_RPM_FORMAT', `its ${this.#name} content is damaged (code ${code})`);
      } else if (left === 0 && count < WINDOW && !last) {
        return;
      }
    }
  }

  [Symbol.dispose](): void {
    if (this.#open) this.#codec.end(this.#stream);
    this.#open = false;
  }

  #begin(): void {
    if (this.#open) return;
    this.#stream.fill(0);
    const code = this.#codec.start(this.#stream);
    if (code !== OK) throw new Error(`${this.#name} cannot start: code ${code}`);
    this.#open = true;
  }

  #set(pointer: number, available: number, memory: Buffer, at: number, length: number): void {
    this.#stream.writeBigUInt64LE(koffi.address(memory) + BigInt(at), pointer);
    if (this.#codec.wide) this.#stream.writeBigUInt64LE(BigInt(length), available);
    else this.#stream.writeUInt32LE(length, available);
  }

  #get(available: number): number {
    return this.#codec.wide
      ? Number(this.#stream.readBigUInt64LE(available))
      : this.#stream.readUInt32LE(available);
  }
}
