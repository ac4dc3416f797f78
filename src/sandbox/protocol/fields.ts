/**
 * The wire format between kiln and the guest init: see src/guest/protocol.h, whose numbers these
 * are. Fields, of which messages are made.
 */
import { KilnError } from '../../errors.ts';

/** Builds a message of fields. */
export class FieldWriter {
  readonly #parts: Buffer[] = [];

  add(tag: number, ...values: readonly Buffer[]): this {
    const head = Buffer.allocUnsafe(8);
    head.writeUInt32LE(tag, 0);
    head.writeUInt32LE(
      values.reduce((sum, value) => sum + value.length, 0),
      4,
    );
    this.#parts.push(head, ...values);
    return this;
  }

  message(type: number): Buffer {
    const head = Buffer.allocUnsafe(8);
    head.writeUInt32LE(
      this.#parts.reduce((sum, part) => sum + part.length, 0),
      0,
    );
    head.writeUInt32LE(type, 4);
    return Buffer.concat([head, ...this.#parts]);
  }
}

export function u32(value: number): Buffer {
  const buffer = Buffer.allocUnsafe(4);
  buffer.writeUInt32LE(value >>> 0, 0);
  return buffer;
}

/** `Infinity` is the highest. */
export function u64(value: number | bigint): Buffer {
  const buffer = Buffer.allocUnsafe(8);
  buffer.writeBigUInt64LE(value === Infinity ? 0xffff_ffff_ffff_ffffn : BigInt(value), 0);
  return buffer;
}

/** A string with its closing NUL. Throws E_ARGUMENT if it has one inside. */
export function text(value: string): Buffer {
  if (value.includes('\0')) {
    throw new KilnError('E_ARGUMENT', `a NUL byte in ${JSON.stringify(value)}`);
  }
  return Buffer.from(`${value}\0`);
}

export function flag(value: boolean): Buffer {
  return u32(value ? 1 : 0);
}
