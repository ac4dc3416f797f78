/** FUSE as a guest's kernel says it, or as no kernel does. Sources: linux/fuse.h. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable, Writable } from 'node:stream';

/** How a request is put into the queue: those of files.c. */
export const HOW = {
  usual: 0,
  'a chain without an end': 1,
  'an address outside of the memory': 2,
  'a length that overflows': 3,
  'an answer before the question': 4,
  'a chain that begins nowhere': 5,
  'a thousand requests where there is room for 64': 6,
  'a request of no bytes': 7,
} as const;

/** As it is usual, but not for long. */
const UNANSWERED = 8;

export const OP = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  readlink: 5,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  setxattr: 21,
  init: 26,
  opendir: 27,
  readdir: 28,
  create: 35,
  ioctl: 39,
  rename2: 45,
  setupmapping: 48,
  tmpfile: 51,
} as const;

export const ROOT = 1n;

/** Of struct fuse_setattr_in. */
const SET = { mode: 1, uid: 2, gid: 4, size: 8 } as const;

export interface Reply {
  /** As the kernel has it: 0, or a positive errno; -1 where no answer came. */
  readonly error: number;
  readonly bytes: Buffer;
}

function u32(...numbers: number[]): Buffer {
  return Buffer.from(Uint32Array.from(numbers).buffer);
}

function u64(...numbers: bigint[]): Buffer {
  return Buffer.from(BigUint64Array.from(numbers).buffer);
}

function names(...texts: string[]): Buffer {
  return Buffer.from(texts.map((text) => `${text}\0`).join(''), 'latin1');
}

/** One connection to virtiofsd. */
export class Fuse implements Disposable {
  readonly #child: ChildProcess;
  readonly #base: number;
  #read = Buffer.alloc(0);
  #unique = 1n;
  /** All that came. */
  heard = '';

  /** @param base the first id of the sandbox, which the guest's kernel has, too */
  constructor(program: string, socket: string, base: number) {
    this.#child = spawn(program, [socket], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdin?.on('error', () => undefined);
    this.#base = base;
  }

  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL');
  }

  async #take(length: number): Promise<Buffer | undefined> {
    const stdout = this.#child.stdout as Readable;
    while (this.#read.length < length) {
      const chunk: Buffer | null = stdout.read();
      if (chunk !== null) this.#read = Buffer.concat([this.#read, chunk]);
      else if (stdout.readableEnded || stdout.destroyed) return undefined;
      else await once(stdout, 'readable');
    }
    const taken = this.#read.subarray(0, length);
    this.#read = this.#read.subarray(length);
    return taken;
  }

  /** Bytes as they are. */
  async raw(bytes: Buffer, room = 4096, how: number = HOW.usual): Promise<Reply> {
    (this.#child.stdin as Writable).write(Buffer.concat([u32(how, bytes.length, room), bytes]));
    const answer = await this.#take(4 + room);
    if (answer === undefined || answer.readInt32LE(0) < 16) {
      return { error: -1, bytes: Buffer.alloc(0) };
    }
    const used = Math.min(answer.readUInt32LE(0), room);
    this.heard += answer.toString('latin1', 4, 4 + used);
    return {
      error: Math.abs(answer.readInt32LE(8)),
      bytes: Buffer.from(answer.subarray(20, 4 + used)),
    };
  }

  /** Bytes that may have no answer. */
  async last(bytes: Buffer): Promise<Reply> {
    return await this.raw(bytes, 4096, UNANSWERED);
  }

  request(
    opcode: number,
    node: bigint,
    body: Buffer,
    { uid = this.#base, length = 40 + body.length }: { uid?: number; length?: number } = {},
  ): Buffer {
    const head = Buffer.concat([
      u32(length, opcode),
      u64(this.#unique++, node),
      u32(uid, uid, 1, 0),
    ]);
    return Buffer.concat([head, body]);
  }

  async ask(opcode: number, node: bigint, body: Buffer, room?: number): Promise<Reply> {
    return await this.raw(this.request(opcode, node, body), room);
  }

  async init(): Promise<Reply> {
    // FUSE_DONT_MASK and FUSE_BIG_WRITES.
    const words = [7, 36, 65_536, 0x60, ...Array.from({ length: 12 }, () => 0)];
    return await this.ask(OP.init, 0n, u32(...words));
  }

  /** The node; undefined where there is none. */
  async lookup(name: string, node: bigint = ROOT): Promise<bigint | undefined> {
    const { error, bytes } = await this.ask(OP.lookup, node, names(name));
    return error === 0 ? bytes.readBigUInt64LE(0) : undefined;
  }

  /** Of a path that is looked up part by part. */
  async find(path: string): Promise<bigint> {
    let node: bigint | undefined = ROOT;
    for (const name of path.split('/')) node = node && (await this.lookup(name, node));
    if (node === undefined) throw new Error(`there is no ${path}`);
    return node;
  }

  async open(
    node: bigint,
    flags = 0,
  ): Promise<{ readonly error: number; readonly handle: bigint }> {
    const { error, bytes } = await this.ask(OP.open, node, u32(flags, 0));
    return { error, handle: error === 0 ? bytes.readBigUInt64LE(0) : 0n };
  }

  /** What is in a file, or the errno. */
  async read(node: bigint, flags = 0): Promise<string | number> {
    const { error, handle } = await this.open(node, flags);
    if (error !== 0) return error;
    const body = Buffer.concat([u64(handle, 0n), u32(4000, 0), u64(0n), u32(flags, 0)]);
    const { error: why, bytes } = await this.ask(OP.read, node, body);
    return why === 0 ? bytes.toString('latin1') : why;
  }

  async write(node: bigint, handle: bigint, content: string): Promise<number> {
    const data = Buffer.from(content);
    const head = Buffer.concat([u64(handle, 0n), u32(data.length, 0), u64(0n), u32(0, 0)]);
    return (await this.ask(OP.write, node, Buffer.concat([head, data]))).error;
  }

  /** Names of a folder, or the errno. */
  async list(node: bigint): Promise<string[] | number> {
    const { error, bytes: opened } = await this.ask(OP.opendir, node, u32(0, 0));
    if (error !== 0) return error;
    const handle = opened.readBigUInt64LE(0);
    const body = Buffer.concat([u64(handle, 0n), u32(4000, 0), u64(0n), u32(0, 0)]);
    const { error: why, bytes } = await this.ask(OP.readdir, node, body);
    if (why !== 0) return why;
    const found: string[] = [];
    for (let at = 0; at + 24 <= bytes.length; ) {
      const length = bytes.readUInt32LE(at + 16);
      found.push(bytes.toString('latin1', at + 24, at + 24 + length));
      at += 24 + Math.ceil(length / 8) * 8;
    }
    return found;
  }

  async create(node: bigint, name: string, mode: number, flags = 0o101): Promise<Reply> {
    return await this.ask(OP.create, node, Buffer.concat([u32(flags, mode, 0, 0), names(name)]));
  }

  async mknod(node: bigint, name: string, mode: number, device = 0): Promise<number> {
    const body = Buffer.concat([u32(mode, device, 0, 0), names(name)]);
    return (await this.ask(OP.mknod, node, body)).error;
  }

  async mkdir(node: bigint, name: string, mode = 0o755): Promise<number> {
    return (await this.ask(OP.mkdir, node, Buffer.concat([u32(mode, 0), names(name)]))).error;
  }

  async symlink(node: bigint, name: string, target: string): Promise<number> {
    return (await this.ask(OP.symlink, node, names(name, target))).error;
  }

  async link(node: bigint, folder: bigint, name: string): Promise<number> {
    return (await this.ask(OP.link, folder, Buffer.concat([u64(node), names(name)]))).error;
  }

  async rename(from: bigint, name: string, to: bigint, other: string): Promise<number> {
    return (await this.ask(OP.rename, from, Buffer.concat([u64(to), names(name, other)]))).error;
  }

  async remove(node: bigint, name: string, opcode: number = OP.unlink): Promise<number> {
    return (await this.ask(opcode, node, names(name))).error;
  }

  async set(
    node: bigint,
    { mode, uid, gid, size }: { mode?: number; uid?: number; gid?: number; size?: bigint },
  ): Promise<number> {
    const valid =
      (mode === undefined ? 0 : SET.mode) |
      (uid === undefined ? 0 : SET.uid) |
      (gid === undefined ? 0 : SET.gid) |
      (size === undefined ? 0 : SET.size);
    const body = Buffer.concat([
      u32(valid, 0),
      u64(0n, size ?? 0n, 0n, 0n, 0n, 0n),
      u32(0, 0, 0, mode ?? 0, 0, uid ?? 0, gid ?? 0, 0),
    ]);
    return (await this.ask(OP.setattr, node, body)).error;
  }

  async setxattr(node: bigint, name: string, value: Buffer): Promise<number> {
    const body = Buffer.concat([u32(value.length, 0), names(name), value]);
    return (await this.ask(OP.setxattr, node, body)).error;
  }
}
