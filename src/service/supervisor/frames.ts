/**
 * The protocol between a supervisor and its clients: frames of { u32 length, u8 kind, bytes }. Both ends are
 * kiln as root; the bounds are for mistakes, and for clients of another version.
 */

import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { defined } from '../../defined.ts';
import type { ErrorCode } from '../../error-codes.ts';
import { KilnError } from '../../errors.ts';

export const FRAME = {
  /** JSON: a request or its answer. */
  message: 0,
  /** Standard input to, standard output from a command. */
  data: 1,
  errorData: 2,
  /** No more standard input. */
  end: 3,
  /** JSON: a signal or a window size for a command. */
  control: 4,
} as const;

interface Frame {
  readonly kind: number;
  readonly body: Buffer;
}

const HEADER = 5;
const MAX_BODY = 4 * 2 ** 20;

export function encodeFrame(kind: number, body: Buffer): Buffer {
  const header = Buffer.allocUnsafe(HEADER);
  header.writeUInt32LE(body.length, 0);
  header.writeUInt8(kind, 4);
  return Buffer.concat([header, body]);
}

export function sendMessage(socket: Socket, message: unknown, kind: number = FRAME.message): void {
  socket.write(encodeFrame(kind, Buffer.from(JSON.stringify(message))));
}

/** Calls `received` for each frame; a malformed one ends the connection. */
export function onFrames(socket: Readable, received: (frame: Frame) => void): void {
  let pending: Buffer = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    pending = pending.length === 0 ? chunk : Buffer.concat([pending, chunk]);
    while (pending.length >= HEADER) {
      const length = pending.readUInt32LE(0);
      if (length > MAX_BODY) {
        socket.destroy(new KilnError('E_PROTOCOL', `a frame of ${length} bytes`));
        return;
      }
      if (pending.length < HEADER + length) return;
      const frame = { kind: pending.readUInt8(4), body: pending.subarray(HEADER, HEADER + length) };
      pending = pending.subarray(HEADER + length);
      received(frame);
    }
  });
}

/** A KilnError in the form that is sent through a socket. */
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
  return { code: 'E_INTERNAL', message: error instanceof Error ? error.message : String(error) };
}
