/**
 * Makes of what a sandbox has left on the disk what a copy of it would be, as a confined child: set-id bits, capabilities
 * and labels of files are dropped, and all is counted and digested. Nobody writes there any more; nothing is followed.
 */
import { type BigIntStats, fchmodSync, fstatSync } from 'node:fs';
import { Budget } from '../artifacts/budget.ts';
import { type ByteString, joinBytes, toBytes } from '../artifacts/byte-string.ts';
import { isSparse } from '../artifacts/content.ts';
import { listEntries } from '../artifacts/source.ts';
import { closing, getXattr, listXattrs, removeXattr } from '../host/calls/descriptor.ts';
import type { SingleTask } from '../host/confine/task.ts';
import { DIRECTORY_WITHIN, FILE_ITSELF, openat2, openPath, readlinkat } from '../host/files/at.ts';
import { contentDigest } from '../host/files/content.ts';
import type { CopyOutput } from './copy-task.ts';
import { isOfLayer, LayerDigest, modeInLayer } from './layer-digest.ts';

const STAT_BLOCK = 512;
const CAPABILITY = 'security.capability';

export const task: SingleTask = {
  async run(input, { fds: [tree = -1], emit }) {
    emit(await new Settling(tree, (input as { maxEntries: number }).maxEntries).run());
  },
};

class Settling {
  readonly #tree: number;
  readonly #budget: Budget;
  readonly #digest = new LayerDigest();
  readonly #links = new Map<string, ByteString>();
  readonly #folders: ByteString[] = [''];
  #bytes = 0;
  #entries = 0;
  #leftOut = 0;

  constructor(tree: number, visited: number) {
    this.#tree = tree;
    this.#budget = new Budget({ bytes: Number.MAX_SAFE_INTEGER, visited });
  }

  async run(): Promise<CopyOutput> {
    // Grows while it is read.
    for (let at = 0; at < this.#folders.length; at++) {
      const path = this.#folders[at]!;
      using folder = closing(
        openat2(this.#tree, path === '' ? '.' : toBytes(path), DIRECTORY_WITHIN),
      );
      this.#digest.note('folder', path, fstatSync(folder.fd, { bigint: true }));
      this.#attributes(folder.fd);
      for (const { name } of listEntries(folder.fd, this.#budget)) {
        if (this.#budget.due) await this.#budget.breathe(this.#entries);
        this.#entries++;
        this.#entry(folder.fd, name, joinBytes(path, name));
      }
    }
    const counted = { bytes: this.#bytes, entries: this.#entries, leftOut: this.#leftOut };
    return { digest: this.#digest.digest(), ...counted };
  }

  #entry(folder: number, name: ByteString, path: ByteString): void {
    using opened = closing(openPath(folder, toBytes(name)));
    const stats = fstatSync(opened.fd, { bigint: true });
    if (stats.isCharacterDevice() && stats.rdev === 0n) this.#digest.whiteout(path);
    else if (stats.isDirectory()) this.#folders.push(path);
    else if (stats.isSymbolicLink()) {
      const to = readlinkat(opened.fd, '').toString('base64');
      this.#digest.note('link', path, stats, to);
    } else if (stats.isFile()) this.#file(folder, name, path, stats);
    else this.#leftOut++;
  }

  #file(folder: number, name: ByteString, path: ByteString, stats: BigIntStats): void {
    const inode = `${stats.dev}:${stats.ino}`;
    const first = stats.nlink > 1n ? this.#links.get(inode) : undefined;
    if (first !== undefined) {
      this.#digest.hardLink(path, first);
      return;
    }
    if (stats.nlink > 1n) this.#links.set(inode, path);
    using file = closing(openat2(folder, toBytes(name), FILE_ITSELF));
    this.#attributes(file.fd);
    const mode = modeInLayer(stats);
    const [size, taken] = [Number(stats.size), Number(stats.blocks) * STAT_BLOCK];
    if (isSparse(size, stats.blocks)) this.#budget.spend('holes', size - taken);
    if ((Number(stats.mode) & 0o7777) !== mode) fchmodSync(file.fd, mode);
    this.#digest.note('file', path, stats, contentDigest(file.fd));
    this.#bytes += taken;
  }

  #attributes(fd: number): void {
    for (const name of listXattrs(fd).sort()) {
      if (isOfLayer(name)) {
        const value = getXattr(fd, name);
        if (value !== undefined) this.#digest.attribute(name, value);
      } else if (name === CAPABILITY) removeXattr(fd, name);
    }
  }
}
