/** Reading a tree that somebody hostile made: the number of names is bounded, nothing is followed. */
import { type BigIntStats, constants, openSync, statfsSync } from 'node:fs';
import { closing } from '../host/calls/descriptor.ts';
import { DirectoryReader, openat2 } from '../host/files/at.ts';
import type { Budget } from './budget.ts';
import { type ByteString, fromBytes, toBytes } from './byte-string.ts';

/** File systems that store no files, by statfs(2) magic number (linux/magic.h). */
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

export function descriptorPath(fd: number): string {
  return `/proc/self/fd/${fd}`;
}

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
  readonly isFile: boolean;
}

export function listDirectory(fd: number, budget: Budget): Buffer[] {
  return listEntries(fd, budget).map(({ name }) => toBytes(name));
}

const TO_LIST = { flags: constants.O_RDONLY | constants.O_DIRECTORY };

/** Sorted, so that two walks of a tree agree; each counts as visited. @throws SyscallError; KilnError E_ARTIFACT_LIMIT */
export function listEntries(fd: number, budget: Budget): DirectoryEntry[] {
  const entries: DirectoryEntry[] = [];
  using directory = closing(openat2(fd, '.', TO_LIST));
  for (const { name, isFile } of new DirectoryReader(directory.fd)) {
    budget.spend('visited', 1);
    entries.push({ name: fromBytes(name), isFile });
  }
  return entries.sort((a, b) => (a.name < b.name ? -1 : 1));
}

const S_IFMT = 0o170000n;
const KINDS: ReadonlyMap<bigint, string> = new Map([
  [0o010000n, 'a fifo'],
  [0o020000n, 'a character device'],
  [0o060000n, 'a block device'],
  [0o140000n, 'a socket'],
]);

export function specialKind(stats: BigIntStats): string {
  return KINDS.get(stats.mode & S_IFMT) ?? 'not a file';
}
