import { createHash, type Hash, hash } from 'node:crypto';
import { closeSync, constants, fchmodSync, futimesSync, openSync, writeSync } from 'node:fs';
import { setXattr } from '../../../host/calls/descriptor.ts';
import { CAPABILITIES } from '../../../host/process/process.ts';
import { showName } from '../filename.ts';
import { rpmError } from '../package.ts';
import type { PlannedFile } from './plan.ts';

/* File capabilities. Sources: cap_from_text(3), linux/capability.h (struct vfs_cap_data, version 2). */

const CAPABILITY_XATTR = 'security.capability';

const REVISION_2 = 0x02000000;
const EFFECTIVE = 1;

function capabilityXattr(text: string): Buffer {
  const sets = { e: 0n, p: 0n, i: 0n };
  for (const clause of text.trim().split(/\s+/)) apply(clause, sets);
  const value = Buffer.alloc(20);
  value.writeUInt32LE(REVISION_2 | (sets.e === 0n ? 0 : EFFECTIVE), 0);
  for (const half of [0, 1]) {
    const shift = BigInt(32 * half);
    value.writeUInt32LE(Number((sets.p >> shift) & 0xffffffffn), 4 + 8 * half);
    value.writeUInt32LE(Number((sets.i >> shift) & 0xffffffffn), 8 + 8 * half);
  }
  return value;
}

function apply(clause: string, sets: Record<'e' | 'p' | 'i', bigint>): void {
  const match = /^([a-z0-9_,]*)((?:[=+-][eip]*)+)$/i.exec(clause);
  if (match === null) throw unknown(clause);
  const mask = maskOf(match[1]!);
  for (const [, operator, letters] of match[2]!.matchAll(/([=+-])([eip]*)/g)) {
    for (const set of ['e', 'p', 'i'] as const) {
      if (operator === '=') sets[set] &= ~mask;
      if (!letters!.includes(set)) continue;
      if (operator === '-') sets[set] &= ~mask;
      else sets[set] |= mask;
    }
  }
}

function maskOf(list: string): bigint {
  if (list === '' || list.toLowerCase() === 'all') return (1n << BigInt(CAPABILITIES.length)) - 1n;
  let mask = 0n;
  for (const name of list.toLowerCase().split(',')) {
    const number = name.startsWith('cap_')
      ? CAPABILITIES.findIndex((known) => `cap_${known.toLowerCase()}` === name)
      : Number(name || NaN);
    if (!Number.isInteger(number) || number < 0 || number > 63) throw unknown(name);
    mask |= 1n << BigInt(number);
  }
  return mask;
}

function unknown(what: string) {
  return rpmError('E_RPM_UNSUPPORTED', `a file has the unknown capabilities '${what}'`);
}

const PERMISSIONS = 0o7777;
/** Set-user-id and set-group-id: writing clears them. */
const SET_ID = 0o6000;

export class FileTarget {
  readonly #file: PlannedFile;
  readonly #fd: number;
  readonly #algorithm: string;
  #hash: Hash | undefined;
  #digest: string | undefined;
  #written = 0;

  constructor(path: string | Buffer, file: PlannedFile, algorithm: string) {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    this.#fd = openSync(path, flags, file.mode & PERMISSIONS);
    this.#file = file;
    this.#algorithm = algorithm;
  }

  write(piece: Buffer): void {
    for (let at = 0; at < piece.length; ) at += writeSync(this.#fd, piece, at);
    this.#written += piece.length;
    if (this.#file.digest === null) return;
    // Most files come in one piece: hashing those at once is several times faster.
    if (piece.length === this.#file.size) this.#digest = hash(this.#algorithm, piece, 'hex');
    else {
      this.#hash ??= createHash(this.#algorithm);
      this.#hash.update(piece);
    }
  }

  finish(): void {
    const { digest, mode, caps, mtime, size, path } = this.#file;
    const actual =
      this.#digest ?? this.#hash?.digest('hex') ?? (digest && hash(this.#algorithm, '', 'hex'));
    if (this.#written !== size || (digest !== null && actual !== digest.toLowerCase())) {
      throw rpmError('E_RPM_DIGEST', `its file ${showName(path)} is not what its header says`);
    }
    if ((mode & SET_ID) !== 0) fchmodSync(this.#fd, mode & PERMISSIONS);
    if (caps !== null) setXattr(this.#fd, CAPABILITY_XATTR, capabilityXattr(caps));
    futimesSync(this.#fd, mtime, mtime);
  }

  close(): void {
    closeSync(this.#fd);
  }
}
