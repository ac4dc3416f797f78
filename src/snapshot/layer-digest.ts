import { createHash } from 'node:crypto';
import type { BigIntStats } from 'node:fs';
import type { ByteString } from '../artifacts/byte-string.ts';

const MODE = 0o7777;
/** Of files: setuid and setgid. */
const SET_ID = 0o6000;

/** The kernel's own marks begin so. */
const MARKS = 'user.overlay.';
const OPAQUE = 'user.overlay.opaque';
/** What a file may do, or a label of the sandbox that wrote it. */
const DROPPED = ['security.', 'trusted.', MARKS];

/** Whether an attribute is part of a layer. */
export function isOfLayer(name: string): boolean {
  return name === OPAQUE || !DROPPED.some((prefix) => name.startsWith(prefix));
}

/** Of a snapshot, files have no set-id bits. */
export function modeInLayer(stats: BigIntStats): number {
  const mode = Number(stats.mode) & MODE;
  return stats.isFile() ? mode & ~SET_ID : mode;
}

/** Of all names, kinds, modes, owners, times, marks and content, folder by folder, names sorted. */
export class LayerDigest {
  readonly #hash = createHash('sha256');

  note(kind: 'folder' | 'file' | 'link', path: ByteString, stats: BigIntStats, content = ''): void {
    const { uid, gid, mtimeNs, size } = stats;
    const bytes = kind === 'file' ? size : 0;
    const what = [kind, path, uid, gid, modeInLayer(stats), mtimeNs, bytes];
    this.#hash.update(`${JSON.stringify([...what.map(String), content])}\n`);
  }

  whiteout(path: ByteString): void {
    this.#hash.update(`whiteout ${JSON.stringify(path)}\n`);
  }

  hardLink(path: ByteString, first: ByteString): void {
    this.#hash.update(`hard link ${JSON.stringify([path, first])}\n`);
  }

  attribute(name: string, value: Buffer): void {
    this.#hash.update(`${JSON.stringify([name, value.toString('base64')])}\n`);
  }

  digest(): string {
    return this.#hash.digest('hex');
  }
}
