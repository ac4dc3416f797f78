/**
 * Reads files whose path somebody else chose: a fifo must not block kiln, and a device must not fill its
 * memory.
 */

import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  writeFileSync,
} from 'node:fs';
import { closing } from '../calls/descriptor.ts';
import { hasErrno } from '../calls/libc.ts';
import { tryCall } from '../calls/system-call.ts';
import { callerMode } from '../process/own-umask.ts';

/**
 * `file`: a regular file and nothing else; for paths that a configuration, a recipe or a repository
 * names. `anything`: what the caller names on the command line, which may be a pipe (`<(command)`).
 */
export type UserFileKind = 'file' | 'anything';

/** POLLIN of poll(2). */
const POLLIN = 1;

/** Bytes read at a time. */
const PIECE = 64 * 1024;

/**
 * Opens a regular file for reading; links are followed. The caller closes it.
 * @throws Error with a reason for people: of open(2), or that it is no file
 */
export function openUserFile(path: string | Buffer): number {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new Error(`${path} is not a regular file`);
}

/**
 * Reads a file with at most `limit` bytes, whatever its size is said to be.
 * @throws Error with a reason for people: of open(2), that it is no file, that it is too large
 */
export function readUserFile(path: string, limit: number, kind: UserFileKind = 'file'): Buffer {
  const fd = kind === 'file' ? openUserFile(path) : openSync(path, READ_ANYTHING);
  try {
    if (fstatSync(fd).isFIFO()) awaitContent(fd, path);
    const pieces: Buffer[] = [];
    for (let length = 0; length <= limit; ) {
      const piece = Buffer.allocUnsafe(Math.min(PIECE, limit + 1 - length));
      const count = readPiece(fd, piece);
      if (count === undefined) {
        awaitContent(fd, path);
        continue;
      }
      if (count === 0) return Buffer.concat(pieces, length);
      pieces.push(piece.subarray(0, count));
      length += count;
    }
  } finally {
    closeSync(fd);
  }
  throw new Error(`${path} is larger than ${limit} bytes`);
}

/** O_NONBLOCK: a fifo without a writer must not block kiln, least of all the daemon. */
const READ_ANYTHING = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** How long a pipe may be silent, ms. */
const PIPE_SILENCE = 5000;

/** Undefined if no bytes have come yet. */
function readPiece(fd: number, piece: Buffer): number | undefined {
  try {
    return readSync(fd, piece);
  } catch (error) {
    if (hasErrno(error, 'EAGAIN')) return undefined;
    throw error;
  }
}

/** Waits until a pipe has something to read, or its writer has ended. @throws Error */
function awaitContent(fd: number, path: string): void {
  // struct pollfd: fd, events, revents. A pipe that nobody has opened for writing shows neither event.
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(fd, 0);
  entry.writeInt16LE(POLLIN, 4);
  const time = BigInt64Array.of(BigInt(PIPE_SILENCE / 1000), 0n);
  if (tryCall('ppoll', entry, 1, time, null, 0) === 0) {
    throw new Error(`nothing comes from ${path}, which is a pipe`);
  }
}

/**
 * O_NONBLOCK: a fifo must not block kiln. Without O_TRUNC, because something that is not a regular file must
 * stay unchanged.
 */
const WRITE = constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/**
 * Writes a file in a folder that may belong to somebody else. A link with this name is not followed, and
 * anything that is not a regular file is left alone.
 * @throws Error of open(2), or that it is no file
 */
export function writeUserFile(path: string, content: string): void {
  const fd = openSync(path, WRITE, callerMode(0o644));
  using _fd = closing(fd);
  if (!fstatSync(fd).isFile()) throw new Error(`${path} is not a regular file`);
  ftruncateSync(fd);
  writeFileSync(fd, content);
}
