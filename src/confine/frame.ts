/**
 * Messages between kiln and a confined child: a little-endian 32-bit length, then so many bytes of
 * JSON. Both directions use it; the reader trusts nothing.
 */
import { KilnError } from '../errors.ts';

/** No message may be longer, bytes. A package of 100,000 files takes about 35 MB. */
const MAX_FRAME = 256 * 1024 * 1024;

const HEADER = 4;

/** One message as bytes. JSON.stringify escapes lone surrogates, so any string survives. */
export function encodeFrame(value: unknown): Buffer {
  const body = Buffer.from(JSON.stringify(value));
  if (body.length > MAX_FRAME) {
    throw new KilnError('E_CONFINE_PROTOCOL', `a message of ${body.length} bytes is too long`);
  }
  const frame = Buffer.allocUnsafe(HEADER + body.length);
  frame.writeUInt32LE(body.length);
  body.copy(frame, HEADER);
  return frame;
}

/** Cuts a stream of bytes into messages. */
export class FrameDecoder {
  #chunks: Buffer[] = [];
  #held = 0;
  readonly #longest: number;

  /** @param longest bytes that a message may have */
  constructor(longest: number = MAX_FRAME) {
    this.#longest = longest;
  }

  /** Bytes of a message that has not ended yet. */
  get pending(): number {
    return this.#held;
  }

  /**
   * Takes the next bytes and yields each message that is now whole.
   * @throws KilnError E_CONFINE_PROTOCOL for a message that is too long or no JSON.
   */
  *push(chunk: Buffer): Generator<unknown> {
    this.#chunks.push(chunk);
    this.#held += chunk.length;
    for (let length = this.#wanted(); this.#held >= length; length = this.#wanted()) {
      const body = this.#take(length).subarray(HEADER);
      let message: unknown;
      try {
        message = JSON.parse(body.toString('utf8'));
      } catch (cause) {
        throw new KilnError('E_CONFINE_PROTOCOL', 'a message is no JSON', { cause });
      }
      yield message;
    }
  }

  /** Bytes the next message takes with its header; Infinity while the header is not all here. */
  #wanted(): number {
    if (this.#held < HEADER) return Number.POSITIVE_INFINITY;
    if (this.#chunks[0]!.length < HEADER) this.#chunks = [Buffer.concat(this.#chunks)];
    const length = this.#chunks[0]!.readUInt32LE();
    if (length > this.#longest) {
      throw new KilnError('E_CONFINE_PROTOCOL', `a message of ${length} bytes is too long`, {
        hint: `it may have ${this.#longest} bytes`,
      });
    }
    return HEADER + length;
  }

  #take(length: number): Buffer {
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks = all.length > length ? [all.subarray(length)] : [];
    this.#held -= length;
    return all.subarray(0, length);
  }
}
