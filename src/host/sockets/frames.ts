/**
 * The protocol between a supervisor and its clients: { u32 length, u8 kind, bytes }. Both ends are kiln as
 * root; the bounds are for mistakes, and for clients of another version.
 */

import type { Readable, Writable } from 'node:stream';
import { defined } from '../../defined.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError, reasonOf } from '../../errors.ts';

export const FRAME = {
  message: 0,
  data: 1,
  errorData: 2,
  end: 3,
  /** JSON: a signal or a window size for a command. */
  control: 4,
} as const;

const HEADER = 5;
const MAX_BODY = 4 * 2 ** 20;

export function encodeFrame(kind: number, body: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.allocUnsafe(HEADER);
  header.writeUInt32LE(body.length, 0);
  header.writeUInt8(kind, 4);
  return Buffer.concat([header, body]);
}

export function encodeMessage(message: unknown, kind: number = FRAME.message): Buffer {
  return encodeFrame(kind, Buffer.from(JSON.stringify(message)));
}

export function sendMessage(to: Writable, message: unknown, kind?: number): void {
  to.write(encodeMessage(message, kind));
}

export interface ReceivedFrame {
  readonly kind: number;
  readonly body: Buffer;
}

/** The first frame of these bytes, and how many it has; undefined if it is not there whole. @throws KilnError E_PROTOCOL */
export function firstFrame(bytes: Buffer): (ReceivedFrame & { readonly size: number }) | undefined {
  if (bytes.length < HEADER) return undefined;
  const length = bytes.readUInt32LE(0);
  if (length > MAX_BODY) throw new KilnError('E_PROTOCOL', `a frame of ${length} bytes`);
  const size = HEADER + length;
  if (bytes.length < size) return undefined;
  return { kind: bytes.readUInt8(4), body: bytes.subarray(HEADER, size), size };
}

export function onFrames(socket: Readable, received: (frame: ReceivedFrame) => void): void {
  let pending: Buffer = Buffer.alloc(0);
  const next = () => {
    try {
      return firstFrame(pending);
    } catch (error) {
      socket.destroy(error as Error);
      return undefined;
    }
  };
  socket.on('data', (chunk: Buffer) => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    for (let frame = next(); frame !== undefined; frame = next()) {
      pending = pending.subarray(frame.size);
      received(frame);
    }
  });
}

export interface WiredError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly hint?: string;
}

export function wired(error: unknown): WiredError {
  if (error instanceof KilnError) {
    const { code, message, hint } = error;
    return { code, message, ...defined({ hint }) };
  }
  return { code: 'E_INTERNAL', message: reasonOf(error) };
}

export function unwired({ code, message, hint }: WiredError): KilnError {
  return new KilnError(code, message, { hint });
}
