/** Reading a tree that somebody hostile made: the number of names is bounded, nothing is followed. */
import { type BigIntStats, constants, openSync, statfsSync } from 'node:fs';
import { readDirectory } from '../host/files/directory.ts';
import { type ByteString, toBytes } from './pattern.ts';
import type { Budget } from './warning.ts';

/** File systems that hold no files of anybody's, by statfs(2) magic number (linux/magic.h). */
const PSEUDO = new Set([
  0x9fa0, // proc
  0x62656572, // sysfs
  0x1cd1, // devpts
  0x27e0eb, // cgroup
  0x63677270, // cgroup2
  0x64626720, // debugfs
  0x74726163, // tracefs
  0x73636673, // securityfs
  0x19800202, // mqueue
  0x62656570, // configfs
  0xcafe4a11, // bpf
  0x6165676c, // pstore
  0xde5e81e4, // efivarfs
  0xf97cff8c, // selinuxfs
  0x6e736673, // nsfs
]);

/** `/proc/self/fd/N`: the very file that a descriptor (O_PATH too) stands for. */
export function descriptorPath(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

/** Tells pseudo file systems from real ones, asking once for each device number. */
export class FileSystems {
  readonly #pseudo = new Map<bigint, boolean>();

  isPseudo(fd: number, stats: BigIntStats): boolean {
    let pseudo = this.#pseudo.get(stats.dev);
    if (pseudo === undefined) {
      pseudo = PSEUDO.has(statfsSync(descriptorPath(fd)).type);
      this.#pseudo.set(stats.dev, pseudo);
    }
    return pseudo;
  }
}

/** Opens the regular file that the O_PATH descriptor `fd` is for reading. Never blocks. */
export function reopenFile(fd: number): number {
  return openSync(
    descriptorPath(fd),
    constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY,
  );
}

export interface DirectoryEntry {
  readonly name: ByteString;
  /** Whether the directory calls it a regular file; it may have become something else. */
  readonly isFile: boolean;
}

/** The names in the directory that `fd` is, as bytes; see {@link listEntries}. */
export function listDirectory(fd: number, budget: Budget): Buffer[] {
  return listEntries(fd, budget).map(({ name }) => toBytes(name));
}

/**
 * The entries of the directory that `fd` is, sorted, so that two walks of the same tree agree.
 * Counts each as visited.
 * @throws SyscallError; KilnError E_ARTIFACT_LIMIT
 */
export function listEntries(fd: number, budget: Budget): DirectoryEntry[] {
  const entries: DirectoryEntry[] = [];
  readDirectory(fd, (name, isFile) => {
    budget.spend('visited', 1);
    entries.push({ name, isFile });
  });
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const S_IFMT = 0o170000n;
const KINDS: ReadonlyMap<bigint, string> = new Map([
  [0o010000n, 'a fifo'],
  [0o020000n, 'a character device'],
  [0o060000n, 'a block device'],
  [0o140000n, 'a socket'],
]);

/** What a file is that is neither a regular file, a directory nor a link: for a message. */
export function specialKind(stats: BigIntStats): string {
  return KINDS.get(stats.mode & S_IFMT) ?? 'not a file';
}
