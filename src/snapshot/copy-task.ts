/**
 * Copies what overlayfs wrote into an upper folder to an empty one, as a confined child that has the ids of the sandbox. Both trees
 * are entered by descriptors. The source is hostile and may change meanwhile: nothing in it is followed.
 *
 * Kept are the kernel's own marks: whiteouts, and `user.overlay.opaque=y` of folders. Set-id bits and capabilities of
 * files are dropped, since whatever wrote the file may have set them.
 */

import { type BigIntStats, fchmodSync, fchownSync, fstatSync } from 'node:fs';
import { Budget } from '../artifacts/budget.ts';
import { type ByteString, joinBytes, toBytes } from '../artifacts/byte-string.ts';
import { copyContent } from '../artifacts/content.ts';
import { listEntries } from '../artifacts/source.ts';
import { KilnError } from '../errors.ts';
import { closing, getXattr, listXattrs, setXattr } from '../host/calls/descriptor.ts';
import { hasErrno, succeeds } from '../host/calls/libc.ts';
import type { SingleTask } from '../host/confine/task.ts';
import {
  DIRECTORY_WITHIN,
  FILE_ITSELF,
  lchownat,
  leaveWhiteout,
  linkat,
  mkdirat,
  NEW_FILE,
  openat2,
  openPath,
  readlinkat,
  setTimes,
  symlinkat,
  unlinkat,
} from '../host/files/at.ts';
import { isOfLayer, LayerDigest, modeInLayer } from './layer-digest.ts';

export interface CopyInput {
  /** The folder in the second descriptor that gets the tree; `spare` is another one there. */
  readonly to: string;
  readonly spare: string;
  readonly maxBytes: number;
  readonly maxEntries: number;
}

export interface CopyOutput {
  /** Of all names, kinds, modes, owners, times, marks and content. */
  readonly digest: string;
  readonly bytes: number;
  readonly entries: number;
  /** Fifos, sockets and devices. */
  readonly leftOut: number;
}

const STAT_BLOCK = 512;
/** Of a folder: one call takes no path of more than 4095, with a name in it. */
const LONGEST_PATH = 3800;
const RENAMED = 'renamed';

export const task: SingleTask = {
  async run(input, { fds: [from = -1, home = -1], emit }) {
    try {
      emit(await new TreeCopy(from, home, input as CopyInput).run());
    } catch (error) {
      // Nobody else changes the copy: what is gone, or something else by now, is so in the source.
      throw hasErrno(error, 'ENOENT', 'ENOTDIR', 'ELOOP', 'ENXIO') ? changeError() : error;
    }
  },
};

class TreeCopy {
  readonly #from: number;
  readonly #home: number;
  readonly #input: CopyInput;
  readonly #budget: Budget;
  readonly #digest = new LayerDigest();
  readonly #links = new Map<string, ByteString>();
  readonly #folders: ByteString[] = [''];
  #bytes = 0;
  #entries = 0;
  #leftOut = 0;

  constructor(from: number, home: number, input: CopyInput) {
    this.#from = from;
    this.#home = home;
    this.#input = input;
    const { maxBytes: bytes, maxEntries: visited } = input;
    this.#budget = new Budget({ bytes, visited });
  }

  async run(): Promise<CopyOutput> {
    using to = closing(openat2(this.#home, this.#input.to, DIRECTORY_WITHIN));
    const { spare: name } = this.#input;
    succeeds(['EEXIST'], () => mkdirat(this.#home, name, 0o700));
    using spare = closing(openat2(this.#home, name, DIRECTORY_WITHIN));
    succeeds(['ENOENT'], () => unlinkat(spare.fd, RENAMED));
    // Grows while it is read. By their paths: a tree is deeper than descriptors go.
    for (let at = 0; at < this.#folders.length; at++) {
      await this.#fill(this.#folders[at]!, to.fd, spare.fd);
    }
    // Backwards: writing into a folder changes its times, and one may be closed even to its owner.
    for (const path of this.#folders.reverse()) {
      using source = closing(openat2(this.#from, place(path), DIRECTORY_WITHIN));
      using target = closing(openat2(to.fd, place(path), DIRECTORY_WITHIN));
      const stats = fstatSync(source.fd, { bigint: true });
      fchmodSync(target.fd, modeInLayer(stats));
      setTimes(target.fd, stats);
      if (this.#budget.due) await this.#budget.breathe();
    }
    unlinkat(this.#home, name, { directory: true });
    return {
      digest: this.#digest.digest(),
      ...{ bytes: this.#bytes, entries: this.#entries, leftOut: this.#leftOut },
    };
  }

  async #fill(path: ByteString, root: number, spare: number): Promise<void> {
    if (path.length > LONGEST_PATH) throw deepError();
    using source = closing(openat2(this.#from, place(path), DIRECTORY_WITHIN));
    using target = closing(openat2(root, place(path), DIRECTORY_WITHIN));
    const stats = fstatSync(source.fd, { bigint: true });
    this.#digest.note('folder', path, stats);
    fchownSync(target.fd, Number(stats.uid), Number(stats.gid));
    this.#copyXattrs(source.fd, target.fd);
    for (const { name } of listEntries(source.fd, this.#budget)) {
      if (this.#budget.due) await this.#budget.breathe(this.#entries);
      this.#entries++;
      await this.#entry(source.fd, target.fd, { name, path: joinBytes(path, name), root, spare });
    }
    refuseChange(stats, fstatSync(source.fd, { bigint: true }));
  }

  async #entry(source: number, target: number, entry: Entry): Promise<void> {
    const name = toBytes(entry.name);
    const { path } = entry;
    using opened = closing(openPath(source, name));
    const stats = fstatSync(opened.fd, { bigint: true });
    if (stats.isCharacterDevice() && stats.rdev === 0n) {
      this.#digest.whiteout(path);
      makeWhiteout(target, name, entry.spare);
    } else if (stats.isDirectory()) {
      mkdirat(target, name, 0o700);
      this.#folders.push(path);
    } else if (stats.isSymbolicLink()) {
      const to = readlinkat(opened.fd, '');
      this.#digest.note('link', path, stats, to.toString('base64'));
      symlinkat(to, target, name);
      lchownat(target, name, Number(stats.uid), Number(stats.gid));
      setTimes(target, stats, name);
    } else if (stats.isFile()) await this.#file(source, target, stats, entry);
    else this.#leftOut++;
  }

  async #file(source: number, target: number, stats: BigIntStats, entry: Entry): Promise<void> {
    const { path, root } = entry;
    const name = toBytes(entry.name);
    const inode = `${stats.dev}:${stats.ino}`;
    const first = stats.nlink > 1n ? this.#links.get(inode) : undefined;
    if (first !== undefined) {
      this.#digest.hardLink(path, first);
      linkat(root, toBytes(first), target, name);
      return;
    }
    if (stats.nlink > 1n) this.#links.set(inode, path);
    using from = closing(openat2(source, name, FILE_ITSELF));
    const before = fstatSync(from.fd, { bigint: true });
    refuseChange(stats, before);
    using to = closing(openat2(target, name, NEW_FILE));
    const [size, blocks] = [Number(stats.size), Number(stats.blocks)];
    const copied = await copyContent(from.fd, to.fd, size, blocks, this.#budget);
    fchownSync(to.fd, Number(stats.uid), Number(stats.gid));
    this.#copyXattrs(from.fd, to.fd);
    fchmodSync(to.fd, modeInLayer(stats));
    setTimes(to.fd, stats);
    this.#digest.note('file', path, stats, copied.sha256);
    refuseChange(stats, fstatSync(from.fd, { bigint: true }));
    this.#bytes += Number(fstatSync(to.fd).blocks) * STAT_BLOCK;
  }

  #copyXattrs(from: number, to: number): void {
    const wanted = listXattrs(from).filter(isOfLayer).sort();
    for (const name of wanted) {
      const value = getXattr(from, name);
      if (value === undefined) continue;
      this.#digest.attribute(name, value);
      // A disk without access control lists, or without room for all attributes.
      if (!succeeds(['EOPNOTSUPP', 'ENOSPC'], () => setXattr(to, name, value))) this.#leftOut++;
    }
  }
}

interface Entry {
  readonly name: ByteString;
  readonly path: ByteString;
  readonly root: number;
  readonly spare: number;
}

function place(path: ByteString): Buffer | string {
  return path === '' ? '.' : toBytes(path);
}

/** The kernel makes one in place of what is renamed: no device can be made by a confined child. */
function makeWhiteout(folder: number, name: Buffer, spare: number): void {
  using _empty = closing(openat2(folder, name, NEW_FILE));
  leaveWhiteout(folder, name, spare, RENAMED);
  unlinkat(spare, RENAMED);
}

/** @throws KilnError E_SNAPSHOT */
function refuseChange(before: BigIntStats, now: BigIntStats): void {
  if (before.ino === now.ino && before.size === now.size && before.mtimeNs === now.mtimeNs) return;
  throw changeError();
}

function changeError(): KilnError {
  return new KilnError('E_SNAPSHOT', 'a process in the sandbox writes while its files are copied', {
    hint: 'end it first, or give --kill',
  });
}

function deepError(): KilnError {
  return new KilnError('E_SNAPSHOT', 'the sandbox has folders that are too deep for a snapshot', {
    hint: `remove them in the sandbox: a path may have ${LONGEST_PATH} bytes`,
  });
}
