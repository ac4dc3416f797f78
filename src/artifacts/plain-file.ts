/**
 * The short way to copy what most files are: small, with one name, without holes and special bits, on
 * a mount where no device can be opened.
 *
 * What is to be done is done for several files at a time, step by step: the kernel's code for a call
 * that was just made is still in the processor's cache.
 */
import { hash } from 'node:crypto';
import { constants, fchmodSync, fchownSync, fstatSync } from 'node:fs';
import { openat2, RESOLVE_NO_XDEV, unlinkat } from '../kernel/at.ts';
import { closeDescriptor, closeWritten, readStart, writeStart } from '../kernel/descriptor.ts';
import { FileStatus } from '../kernel/file-status.ts';
import { SyscallError } from '../kernel/libc.ts';
import type { Owner } from './destination.ts';
import { type ByteString, toName } from './pattern.ts';

/** Of a larger one, the content takes the time. */
const LARGEST = 64 * 1024;
/** st_blocks counts these, whatever the file system's own block size. */
const STAT_BLOCK = 512;

/** Files of one open directory, and the one that their copies go into. */
interface PlainFiles {
  /** On a mount where no device can be opened, since files are opened to see what they are. */
  readonly from: number;
  readonly to: number;
  /** At most {@link GROUP}. */
  readonly names: readonly ByteString[];
  readonly birth: Birth;
}

/** What was copied. */
interface PlainCopy {
  readonly size: number;
  /** Hex. */
  readonly sha256: string;
  /** Permission bits. */
  readonly mode: number;
  /** Of last modification, whole milliseconds since 1970. */
  readonly mtimeMs: number;
}

/** How many files are copied at a time; each has two descriptors meanwhile. */
export const GROUP = 32;

/** Opens nothing that is mounted on a name, which may have devices again, and blocks on no fifo. */
const TO_READ = {
  flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY,
  resolve: RESOLVE_NO_XDEV,
};

/** By permission bits: a constant is quicker than an object made for the call. */
const TO_CREATE = Array.from({ length: 0o1000 }, (_, mode) => ({
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode,
}));

/** A file under way. */
class Slot {
  readonly before = new FileStatus();
  readonly after = new FileStatus();
  readonly content = Buffer.allocUnsafeSlow(LARGEST);
  name: Buffer | string = '';
  /** Descriptors; -1 is none. */
  from = -1;
  to = -1;
  /** There is a copy, whole or not. */
  made = false;
  /** It is no such file, or something went wrong. */
  failed = false;

  /** For the next file. */
  reset(name: ByteString): this {
    this.name = toName(name);
    this.from = -1;
    this.to = -1;
    this.made = false;
    this.failed = false;
    return this;
  }
}

/** What is done with a file. Throws a system's error, or returns false, where it has to be copied with care. */
type Step = (slot: Slot, files: PlainFiles) => unknown;

/** Used again and again: nothing here waits. */
const slots: Slot[] = [];

const STEPS: readonly Step[] = [
  (slot, files) => {
    slot.from = openat2(files.from, slot.name, TO_READ);
  },
  (slot) => {
    slot.before.read(slot.from);
    return isPlain(slot.before);
  },
  ({ before, content, from }) => readStart(from, content, before.size) === before.size,
  (slot, files) => {
    slot.to = openat2(files.to, slot.name, TO_CREATE[slot.before.permissions]!);
    slot.made = true;
  },
  ({ before, content, to }) => writeStart(to, content, before.size),
  ({ before, to }, { birth }) => {
    if (birth.owner !== undefined) fchownSync(to, birth.owner.uid, birth.owner.gid);
    if ((before.permissions & ~birth.modes) !== 0) fchmodSync(to, before.permissions);
    before.setTimesOf(to);
  },
  (slot) => {
    const { to } = slot;
    slot.to = -1;
    closeWritten(to);
  },
  ({ before, after, from }) => {
    after.read(from);
    return after.isUnchangedFrom(before);
  },
];

const remove: Step = ({ name }, files) => unlinkat(files.to, name);

/**
 * Copies files. Undefined stands for one that is no such file, or with which something has gone wrong:
 * nothing of it is left, and the careful way of TreeCopy will say what.
 */
export function copyPlainFiles(files: PlainFiles): (PlainCopy | undefined)[] {
  const used = files.names.map((name, index) => {
    slots[index] ??= new Slot();
    return slots[index].reset(name);
  });
  try {
    for (const step of STEPS) {
      for (const slot of used) {
        if (!slot.failed) slot.failed = !attempt(step, slot, files);
      }
    }
  } finally {
    for (const { to } of used) if (to !== -1) closeDescriptor(to);
    for (const { from } of used) if (from !== -1) closeDescriptor(from);
    for (const slot of used) if (slot.failed && slot.made) attempt(remove, slot, files);
  }
  return used.map((slot) => (slot.failed ? undefined : described(slot)));
}

/** False if the system says no, or the step itself. */
function attempt(step: Step, slot: Slot, files: PlainFiles): boolean {
  try {
    return step(slot, files) !== false;
  } catch (error) {
    if (error instanceof SyscallError || (error as NodeJS.ErrnoException).syscall) return false;
    throw error;
  }
}

function isPlain({ isFile, links, permissions, size, blocks }: FileStatus): boolean {
  const ordinary = isFile && links === 1 && permissions <= 0o777;
  return ordinary && size <= LARGEST && blocks * STAT_BLOCK >= size;
}

function described({ before, content }: Slot): PlainCopy {
  const { size, permissions, mtimeMs } = before;
  const sha256 = hash('sha256', content.subarray(0, size), 'hex');
  return { size, sha256, mode: permissions, mtimeMs };
}

/* What a new file is by itself, so that nobody has to make it so. */

/** How files are made in a directory, and in those made below it. */
export interface Birth {
  /** Who gets them afterwards; undefined if they are born as theirs. */
  readonly owner?: Owner;
  /** The permission bits that a new file keeps of those it is made with. */
  readonly modes: number;
}

const PROBE = '.birth';
const TO_PROBE = {
  flags: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
  mode: 0o777,
};

/**
 * Finds out, by trying, what becomes of `owner`'s files in an empty directory that is ours alone: there are the
 * umask, default ACLs, setgid directories, and file systems that decide themselves.
 * @throws SyscallError
 */
export function birthIn(directory: number, owner: Owner): Birth {
  const probe = openat2(directory, PROBE, TO_PROBE);
  try {
    const { uid, gid, mode } = fstatSync(probe);
    const same = uid === owner.uid && gid === owner.gid;
    return { ...(same ? {} : { owner }), modes: mode & 0o777 };
  } finally {
    closeDescriptor(probe);
    unlinkat(directory, PROBE);
  }
}
