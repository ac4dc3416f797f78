/**
 * Copies files and directories of the host into a sandbox. This end reads them and sends steps; a process of the
 * sandbox's (src/guest/unpack.c) makes them there, with the rights of the files' owner.
 */
import { type BigIntStats, fstatSync, openSync, read } from 'node:fs';
import { basename, resolve } from 'node:path';
import { promisify } from 'node:util';
import { KilnError } from '../errors.ts';
import { closing, dataExtents } from '../host/calls/descriptor.ts';
import { hasErrno, SyscallError } from '../host/calls/libc.ts';
import { O_PATH, openPath, readlinkat, writeTimespec } from '../host/files/at.ts';
import type { HeldPath } from '../host/files/held.ts';
import { Budget } from './budget.ts';
import {
  type ByteString,
  fromBytes,
  fromText,
  joinBytes,
  quoteName,
  toBytes,
} from './byte-string.ts';
import { isSparse } from './content.ts';
import { keptMode } from './destination.ts';
import { FileSystems, listEntries, reopenFile, specialKind } from './source.ts';
import { type Warning, Warnings } from './warning.ts';

/** The steps of src/guest/unpack.c, and bits of their modes. */
const STEP = { place: 1, directory: 2, leave: 3, file: 4, link: 5, hardLink: 6, write: 7 } as const;
const INTO = 1 << 16;
const CONTENT = 1 << 17;
const APPEND = 1 << 18;

const HEADER = 48;
const PIECE_HEADER = 16;

/** Bytes of content at once. */
const PIECE = 256 * 1024;

const readAt = promisify(read);
/** Resolves once the bytes are with the sandbox; they may be changed then. */
export type Send = (bytes: Buffer) => Promise<void>;

export interface CopyInItem {
  readonly source: HeldPath;
  readonly target: string;
  /** @param path of an entry below what is copied */
  readonly leaveOut?: (path: string, stats: BigIntStats) => boolean;
}

interface CopyInOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onWarning?: (warning: Warning) => void;
}

/**
 * Sends files and directories of the host, as `docker cp` would copy them. Missing directories on the way are
 * made; what is there is replaced, existing directories are merged with. A source that is a link is followed, links
 * below it are copied. Modes (without setuid and setgid), times, holes and hard links are kept.
 * @throws KilnError E_COPY_IN (missing, unreadable or special source, unfit target), E_ARTIFACT_LIMIT
 */
export async function sendFiles(
  item: CopyInItem,
  send: Send,
  { signal, onWarning }: CopyInOptions,
): Promise<void> {
  const warnings = new Warnings(onWarning);
  using opened = openSource(item);
  await send(placing(item, opened));
  const sender = new Sender(item, send, new Budget({}, signal), warnings);
  const { source, name } = opened;
  const entry = { from: -1, name: Buffer.from(name), source: fromText(source), path: '', depth: 1 };
  await sender.opened(entry, opened.fd);
  warnings.finish();
}

export interface WrittenFile {
  readonly path: string;
  readonly bytes: Buffer;
  readonly append: boolean;
  readonly mode: number;
}

/** One file whose content is given, through links, into what is there. */
export function writtenFile({ path, bytes, append, mode }: WrittenFile): Buffer {
  return Buffer.concat([
    step(STEP.place, { name: fromText(path), mode: CONTENT }),
    step(STEP.write, { mode: (mode & 0o777) | (append ? APPEND : 0) }),
    pieceHeader(0, bytes.length),
    ...(bytes.length === 0 ? [] : [bytes, pieceHeader(0, 0)]),
  ]);
}

interface Step {
  readonly name?: ByteString;
  readonly more?: ByteString;
  readonly mode?: number;
  readonly stats?: BigIntStats;
}

function step(op: number, { name = '', more = '', stats, ...given }: Step = {}): Buffer {
  const [first, second] = [toBytes(name), toBytes(more)];
  const header = Buffer.alloc(HEADER);
  header.writeUInt32LE(op, 0);
  header.writeUInt32LE(given.mode ?? (stats === undefined ? 0 : keptMode(stats)), 4);
  if (stats !== undefined) {
    const times = new BigInt64Array(4);
    writeTimespec(times, 0, stats.atimeNs);
    writeTimespec(times, 2, stats.mtimeNs);
    Buffer.from(times.buffer).copy(header, 8);
  }
  header.writeUInt32LE(first.length, 40);
  header.writeUInt32LE(second.length, 44);
  return Buffer.concat([header, first, second]);
}

/** Without bytes: the end of the content, and its size. */
function pieceHeader(offset: number, length: number): Buffer {
  const header = Buffer.alloc(PIECE_HEADER);
  header.writeBigUInt64LE(BigInt(offset), 0);
  header.writeBigUInt64LE(BigInt(length), 8);
  return header;
}

function placing(item: CopyInItem, { name, contentOnly }: Source): Buffer {
  if (!item.target.startsWith('/')) throw copyError(item, 'the target is not an absolute path');
  if (item.target.split('/').includes('..')) throw copyError(item, 'the target has ".." in it');
  const mode = (item.target.endsWith('/') ? INTO : 0) | (contentOnly ? CONTENT : 0);
  return step(STEP.place, { name: fromText(item.target), more: fromText(name), mode });
}

interface Entry {
  readonly from: number;
  readonly name: Buffer;
  /** Its path on the host, for messages. */
  readonly source: ByteString;
  /** Below what is copied. */
  readonly path: ByteString;
  readonly depth: number;
}

class Sender {
  readonly #item: CopyInItem;
  readonly #send: Send;
  readonly #budget: Budget;
  readonly #warnings: Warnings;
  readonly #fileSystems = new FileSystems();
  readonly #inodes = new Map<string, ByteString>();
  readonly #buffer = Buffer.allocUnsafe(PIECE);

  constructor(item: CopyInItem, send: Send, budget: Budget, warnings: Warnings) {
    this.#item = item;
    this.#send = send;
    this.#budget = budget;
    this.#warnings = warnings;
  }

  async entry(entry: Entry): Promise<void> {
    const { source } = entry;
    if (this.#budget.due) await this.#budget.breathe();
    using opened = closing(this.#reading(source, () => openPath(entry.from, entry.name)));
    await this.opened(entry, opened.fd);
  }

  async opened(entry: Entry, fd: number): Promise<void> {
    const { source } = entry;
    const stats = fstatSync(fd, { bigint: true });
    if (this.#item.leaveOut?.(entry.path, stats) === true) return;
    const name = fromBytes(entry.name);
    if (this.#fileSystems.isPseudo(fd, stats)) {
      this.#warnings.add('pseudo-filesystem', source, 'is in a pseudo file system: skipped');
    } else if (stats.isDirectory()) {
      await this.#directory(entry, name, fd, stats);
    } else if (stats.isFile()) {
      await this.#file(entry, name, fd, stats);
    } else if (stats.isSymbolicLink()) {
      this.#budget.spend('entries', 1);
      const more = fromBytes(this.#reading(source, () => readlinkat(fd, '')));
      await this.#send(step(STEP.link, { name, more, stats }));
    } else {
      this.#warnings.add('special-file', source, `is ${specialKind(stats)}: skipped`);
    }
  }

  async #directory(entry: Entry, name: ByteString, fd: number, stats: BigIntStats): Promise<void> {
    const { source, path, depth } = entry;
    this.#budget.spend('entries', 1);
    this.#budget.checkDepth(depth);
    const entries = this.#reading(source, () => listEntries(fd, this.#budget));
    this.#warnings.addDroppedBits(source, stats);
    await this.#send(step(STEP.directory, { name, stats }));
    for (const one of entries) {
      await this.entry({
        ...{ from: fd, name: toBytes(one.name), source: `${source}/${one.name}` },
        ...{ path: joinBytes(path, one.name), depth: depth + 1 },
      });
    }
    await this.#send(step(STEP.leave));
  }

  async #file({ source, path }: Entry, name: ByteString, fd: number, stats: BigIntStats) {
    this.#budget.spend('entries', 1);
    const inode = stats.nlink > 1n && path !== '' ? `${stats.dev}:${stats.ino}` : undefined;
    const twin = inode === undefined ? undefined : this.#inodes.get(inode);
    if (twin !== undefined) {
      await this.#send(step(STEP.hardLink, { name, more: twin }));
      return;
    }
    this.#warnings.addDroppedBits(source, stats);
    using from = closing(this.#reading(source, () => reopenFile(fd)));
    const size = Number(stats.size);
    let head = step(STEP.file, { name, stats });
    const sparse = isSparse(size, stats.blocks);
    const extents = sparse ? dataExtents(from.fd, size) : [{ offset: 0, length: size }];
    for (const { offset, length } of extents) {
      this.#budget.spend('bytes', length);
      for (let at = offset; at < offset + length; ) {
        const piece = this.#buffer.subarray(0, offset + length - at);
        const bytes = await this.#read(source, from.fd, piece, at);
        await this.#send(Buffer.concat([head, pieceHeader(at, bytes), piece.subarray(0, bytes)]));
        head = Buffer.alloc(0);
        at += bytes;
        if (this.#budget.due) await this.#budget.breathe();
      }
    }
    await this.#send(Buffer.concat([head, pieceHeader(size, 0)]));
    const after = fstatSync(from.fd, { bigint: true });
    if (after.mtimeNs !== stats.mtimeNs || after.size !== stats.size) {
      throw this.#unreadableError(source, 'changed while being read');
    }
    if (inode !== undefined) this.#inodes.set(inode, path);
  }

  async #read(source: ByteString, from: number, piece: Buffer, at: number): Promise<number> {
    const { bytesRead } = await readAt(from, piece, 0, piece.length, at).catch((cause) => {
      throw this.#unreadableError(source, 'cannot be read', cause);
    });
    if (bytesRead > 0) return bytesRead;
    throw this.#unreadableError(source, 'changed while being read');
  }

  /** An entry that a job should get and does not get is an error, not a warning. */
  #reading<Result>(source: ByteString, act: () => Result): Result {
    try {
      return act();
    } catch (cause) {
      if (cause instanceof KilnError && !(cause instanceof SyscallError)) throw cause;
      const why = hasErrno(cause, 'ENOENT') ? 'was gone before it could be read' : 'cannot be read';
      throw this.#unreadableError(source, why, cause);
    }
  }

  #unreadableError(source: ByteString, why: string, cause?: unknown): KilnError {
    return copyError(this.#item, `${quoteName(source)} ${why}`, cause);
  }
}

interface Source extends Disposable {
  /** For messages. */
  readonly source: string;
  readonly fd: number;
  readonly name: string;
  readonly contentOnly: boolean;
}

function openSource(item: CopyInItem): Source {
  using stack = new DisposableStack();
  let opened: { readonly fd: number };
  try {
    opened = stack.use(closing(openSync(item.source, O_PATH)));
  } catch (cause) {
    throw copyError(item, 'there is no such file', cause);
  }
  const { fd } = opened;
  const stats = fstatSync(fd);
  if (!stats.isFile() && !stats.isDirectory()) {
    throw copyError(item, 'it is neither a file nor a folder');
  }
  const held = stack.move();
  return {
    ...{ fd, source: resolve(item.source), name: basename(resolve(item.source)) },
    contentOnly: stats.isDirectory() && /(^|\/)\.\/*$/.test(item.source),
    [Symbol.dispose]: () => held.dispose(),
  };
}

function copyError(
  item: CopyInItem,
  why: string,
  cause?: unknown,
  hint = '--copy-in SRC:DST takes a file or folder of the host and an absolute path',
): KilnError {
  return new KilnError(
    'E_COPY_IN',
    `${JSON.stringify(item.source)} cannot be copied into the sandbox: ${why}`,
    { hint, details: { source: item.source, target: item.target }, cause },
  );
}

/** How a sandbox's process that makes files failed: with an error of the kernel's, or by a signal. */
export type Unmade =
  | { readonly cause: SyscallError; readonly path: string }
  | { readonly signal: NodeJS.Signals };

const BEHIND_LINK =
  'is where the command’s user may not write: behind a symbolic link of that user’s, no other rights count';

const WHY_NOT = [
  ['EISDIR', 'is a folder there'],
  ['EROFS', 'is where the sandbox cannot be written to: --read-only, or a read-only bind'],
  ['ENOTDIR', 'is not a folder'],
  ['ENAMETOOLONG', 'is too long, or leads through symbolic links that are'],
  ['ELOOP', 'leads through a symbolic link of another user’s, which is not followed'],
  ['EACCES', BEHIND_LINK],
  ['EPERM', BEHIND_LINK],
] as const;

export function cannotWriteError(item: CopyInItem, unmade: Unmade): KilnError {
  if ('signal' in unmade) {
    const why = `the sandbox’s process that writes was ended by ${unmade.signal}`;
    return copyError(item, why, undefined, 'its memory limit counts what is written: --memory');
  }
  const { cause, path } = unmade;
  const full = hasErrno(cause, 'ENOSPC', 'EDQUOT');
  const hint = full ? 'give the sandbox more room: --disk, --tmpfs' : 'choose another target';
  const why = WHY_NOT.find(([errno]) => hasErrno(cause, errno))?.[1] ?? 'cannot be written';
  return copyError(item, `${quoteName(fromText(path))} ${why}`, cause, hint);
}
