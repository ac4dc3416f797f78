/**
 * Reads directories in pieces, with names as bytes and the entry types that the directory stores. Node's own
 * functions make objects and paths instead. Sources: getdents64(2), readdir(3).
 */
import { constants } from 'node:fs';
import { closeDescriptor } from '../calls/descriptor.ts';
import { hasErrno } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';
import { openat2 } from './at.ts';

const SEEK_SET = 0;

const TO_LIST = { flags: constants.O_RDONLY | constants.O_DIRECTORY };

/** struct linux_dirent64: two words of 64 bits, then these. */
const RECORD_LENGTH = 16;
const TYPE = 18;
const NAME = 19;
const DT_DIR = 4;
const DT_REG = 8;

const DOT = 0x2e;

/** A few hundred entries. */
const PIECE = 32 * 1024;

/**
 * Calls `visit` for each entry but `.` and `..`, in the directory's own order, with the name (one character a
 * byte, latin1) and whether the entry is known to be a regular file.
 * @param fd a directory; O_PATH will do
 * @throws SyscallError; what `visit` throws
 */
export function readDirectory(fd: number, visit: (name: string, isFile: boolean) => void): void {
  const directory = openat2(fd, '.', TO_LIST);
  try {
    const piece = Buffer.allocUnsafe(PIECE);
    for (let length = 1; length > 0; ) {
      length = readPiece(directory, piece);
      for (let at = 0; at < length; at += piece.readUInt16LE(at + RECORD_LENGTH)) {
        const name = piece.toString('latin1', at + NAME, piece.indexOf(0, at + NAME));
        if (name !== '.' && name !== '..') visit(name, piece[at + TYPE] === DT_REG);
      }
    }
  } finally {
    closeDescriptor(directory);
  }
}

export interface DirectoryEntry {
  /** The bytes of the name; the caller may keep them. */
  readonly name: Buffer;
  /**
   * Whether the directory lists the entry as a directory. Some file systems do not know, and the entry may
   * change.
   */
  readonly isDirectory: boolean;
}

/** Reads an open directory some hundred entries at a time, so that a large one takes little memory. */
export class DirectoryReader {
  readonly #fd: number;
  readonly #piece = Buffer.allocUnsafe(PIECE);

  /** @param fd open for reading; stays the caller's, who must not read it otherwise */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /** The next entries but `.` and `..`; undefined at the end. @throws SyscallError */
  next(): DirectoryEntry[] | undefined {
    const piece = this.#piece;
    const length = readPiece(this.#fd, piece);
    if (length === 0) return undefined;
    const entries: DirectoryEntry[] = [];
    for (let at = 0; at < length; at += piece.readUInt16LE(at + RECORD_LENGTH)) {
      const name = Buffer.from(piece.subarray(at + NAME, piece.indexOf(0, at + NAME)));
      const dots = name.length <= 2 && name.every((byte) => byte === DOT);
      if (!dots) entries.push({ name, isDirectory: piece[at + TYPE] === DT_DIR });
    }
    return entries;
  }

  /** Begins anew. @throws SyscallError */
  rewind(): void {
    checked('lseek', tryCall('lseek', this.#fd, 0, SEEK_SET));
  }
}

/** Returns how many bytes there were; 0 at the end, which a directory that was removed has, too. */
function readPiece(directory: number, piece: Buffer): number {
  try {
    return checked('getdents64', tryCall('getdents64', directory, piece, piece.length));
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return 0;
    throw error;
  }
}
