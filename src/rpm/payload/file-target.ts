/** One regular file while it is written: content, digest, then everything else the header says. */
import { type BinaryLike, createHash, type Hash, hash } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  futimesSync,
  openSync,
  writeSync,
} from 'node:fs';
import { setXattr } from '../../kernel/xattr.ts';
import { rpmError } from '../errors.ts';
import { showName } from '../filename.ts';
import { CAPABILITY_XATTR, capabilityXattr } from './capabilities.ts';
import type { PlannedFile } from './plan.ts';

const PERMISSIONS = 0o7777;
/** Set-user-id and set-group-id: writing and chown(2) clear them. */
const SET_ID = 0o6000;

export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export class FileTarget {
  readonly #file: PlannedFile;
  readonly #fd: number;
  readonly #algorithm: string;
  readonly #owner: Owner | undefined;
  #hash: Hash | undefined;
  #digest: string | undefined;
  #written = 0;

  /** Makes the file; an existing one is EEXIST. @param owner Undefined for root. */
  constructor(
    path: string | Buffer,
    file: PlannedFile,
    algorithm: string,
    owner: Owner | undefined,
  ) {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    this.#fd = openSync(path, flags, file.mode & PERMISSIONS);
    this.#file = file;
    this.#algorithm = algorithm;
    this.#owner = owner;
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

  /** @throws KilnError E_RPM_DIGEST when the content is not what the header says. */
  finish(): void {
    const { digest, mode, caps, mtime, size, path } = this.#file;
    const actual =
      this.#digest ?? this.#hash?.digest('hex') ?? emptyDigest(this.#algorithm, digest);
    if (this.#written !== size || (digest !== null && actual !== digest.toLowerCase())) {
      throw rpmError('E_RPM_DIGEST', `its file ${showName(path)} is not what its header says`);
    }
    if (this.#owner !== undefined) fchownSync(this.#fd, this.#owner.uid, this.#owner.gid);
    if ((mode & SET_ID) !== 0) fchmodSync(this.#fd, mode & PERMISSIONS);
    if (caps !== null) setXattr(this.#fd, CAPABILITY_XATTR, capabilityXattr(caps));
    futimesSync(this.#fd, mtime, mtime);
  }

  close(): void {
    closeSync(this.#fd);
  }
}

const NOTHING: BinaryLike = '';

function emptyDigest(algorithm: string, digest: string | null): string | undefined {
  return digest === null ? undefined : hash(algorithm, NOTHING, 'hex');
}
