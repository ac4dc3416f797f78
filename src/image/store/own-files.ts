/** Digests of an image's own files: those that are not the very files of its packages, whose headers have digests. */

import { fstatSync, lstatSync, readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { closing } from '../../host/calls/descriptor.ts';
import { SyscallError } from '../../host/calls/libc.ts';
import {
  AT_FDCWD,
  FILE_BELOW,
  O_PATH,
  openat2,
  openDirectory,
  openInTree,
} from '../../host/files/at.ts';
import { contentDigest } from '../../host/files/content.ts';
import { checkTreeDepth } from '../../host/files/tree-usage.ts';
import { findRecord, writeRecord } from '../../host/state/checked-file.ts';
import { decodeName, encodeName } from '../../packages/rpm/filename.ts';
import type { KnownDamage } from './mark.ts';

/** SHA-256 in hexadecimal by the path in the tree; null of a file whose holes would take hours to read. */
type OwnDigests = Readonly<Record<string, string | null>>;

interface Noted {
  readonly own: OwnDigests;
}

const BLOCK = 512;
/** Bytes of holes that are read. */
const MOST_HOLES = 64 * 2 ** 20;

function noteFile(directory: string): string {
  return join(directory, 'own-files.json');
}

/** What is known of an image's own files. */
export interface OwnFiles {
  /** Where they are, or nothing is; without it the whole tree is looked at. */
  readonly paths?: readonly string[] | undefined;
  /** The folder of the image that it is made on, with whose own files it has links. */
  readonly below?: string | undefined;
}

/**
 * Writes down what an image has of its own. Nobody may change its tree meanwhile.
 * @param directory the image's folder
 */
export async function noteOwnFiles(
  directory: string,
  tree: string,
  { paths, below }: OwnFiles,
): Promise<void> {
  const scan = new Scan(below === undefined ? {} : (notedFiles(below) ?? {}));
  using root = closing(openDirectory(AT_FDCWD, tree));
  if (paths === undefined) await scan.folder(root.fd, '', 0);
  else for (const path of paths) scan.path(root.fd, path);
  writeRecord(noteFile(directory), { own: scan.own } satisfies Noted);
}

/** Undefined of an image of an older kiln, and where the note is damaged. */
function notedFiles(directory: string): OwnDigests | undefined {
  const take = (value: object) => (value as Noted).own;
  return findRecord(noteFile(directory), take).value;
}

class Scan {
  readonly own: Record<string, string | null> = {};
  readonly #below: OwnDigests;
  readonly #linked = new Map<string, string[]>();

  constructor(below: OwnDigests) {
    this.#below = below;
  }

  /** Links on the way are followed inside the tree: the image has the file by its real path. */
  path(root: number, path: string): void {
    using found = openInTree(root, encodeName(path), O_PATH);
    if (found === undefined || !fstatSync(found.fd).isFile()) return;
    const top = readlinkSync(`/proc/self/fd/${root}`, { encoding: 'buffer' });
    const real = readlinkSync(`/proc/self/fd/${found.fd}`, { encoding: 'buffer' });
    const at = real.subarray(top.length);
    this.own[decodeName(at)] = digestBelow(root, at.subarray(1));
  }

  async folder(fd: number, path: string, depth: number): Promise<void> {
    checkTreeDepth(depth);
    const here = `/proc/self/fd/${fd}`;
    for (const entry of readdirSync(here, { encoding: 'buffer', withFileTypes: true })) {
      const at = `${path}/${decodeName(entry.name)}`;
      if (entry.isDirectory()) {
        using inner = closing(openDirectory(fd, entry.name));
        await this.folder(inner.fd, at, depth + 1);
      } else if (entry.isFile()) {
        const names = this.#ownNames(Buffer.concat([Buffer.from(`${here}/`), entry.name]), at);
        if (names.length === 0) continue;
        const digest = digestBelow(fd, entry.name);
        for (const name of names) this.own[name] = digest;
        await nextTurn();
      }
    }
  }

  /** Of a file that is the image's own, once all its names are seen; one with a name elsewhere is a package's. */
  #ownNames(file: Buffer, at: string): readonly string[] {
    const { dev, ino, nlink } = lstatSync(file);
    if (nlink === 1 || at in this.#below) return [at];
    const inode = inodeOf({ dev, ino });
    const names = [...(this.#linked.get(inode) ?? []), at];
    this.#linked.set(inode, names);
    return names.length === nlink ? names : [];
  }
}

function digestBelow(folder: number, name: Buffer): string | null {
  using file = closing(openat2(folder, name, FILE_BELOW));
  const { size, blocks } = fstatSync(file.fd);
  return size - blocks * BLOCK > MOST_HOLES ? null : contentDigest(file.fd);
}

export interface ComparedOwn {
  readonly damage: KnownDamage | undefined;
  /** Files with too many holes to be compared. */
  readonly holes: number;
  /** Of those that are as they were. */
  readonly inodes: ReadonlySet<string>;
}

export function inodeOf({ dev, ino }: { readonly dev: number; readonly ino: number }): string {
  return `${dev}:${ino}`;
}

/** Undefined where nothing says how the files were. */
export async function compareOwnFiles(
  directory: string,
  tree: string,
): Promise<ComparedOwn | undefined> {
  const own = notedFiles(directory);
  if (own === undefined) return undefined;
  using root = closing(openDirectory(AT_FDCWD, tree));
  const inodes = new Set<string>();
  let damage: KnownDamage | undefined;
  let holes = 0;
  for (const [path, digest] of Object.entries(own)) {
    try {
      using file = closing(openat2(root.fd, encodeName(path.slice(1)), FILE_BELOW));
      inodes.add(inodeOf(fstatSync(file.fd)));
      if (digest === null) holes++;
      else if (contentDigest(file.fd) !== digest)
        damage ??= { path: `${tree}${path}`, why: DIFFERS };
    } catch (error) {
      if (!(error instanceof SyscallError)) throw error;
      damage ??= { path: `${tree}${path}`, why: `it cannot be opened (${error.errnoName})` };
    }
    await nextTurn();
  }
  return { damage, holes, inodes };
}

const DIFFERS = 'its sha256 is another one';
