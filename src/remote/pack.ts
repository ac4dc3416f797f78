/** Files on their way to the other end of a connection: a tar archive, entry by entry. */
import { once } from 'node:events';
import {
  closeSync,
  constants,
  createReadStream,
  existsSync,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { type Pack, pack } from 'tar-stream';
import { KilnError } from '../errors.ts';
import { reasonLine } from '../host/calls/system-error.ts';
import { roomIn } from '../host/sockets/back-pressure.ts';
import { encodeFrame } from '../host/sockets/frames.ts';
import { awaitedLater } from '../promise.ts';
import { ARCHIVE_FRAME, PIECE } from './wire.ts';

type Links =
  | 'as they are'
  /** Links to files are followed. */
  | 'followed';

/** Names that a tree may have, and folders within folders: more is a mistake of whoever named it. */
const NAMES_MAX = 200_000;
const DEPTH_MAX = 200;

export class Packer {
  readonly #archive: Pack = pack();
  #names = 0;

  get stream(): Readable {
    return this.#archive as unknown as Readable;
  }

  end(): void {
    this.#archive.finalize();
  }

  /** Packs a file, or the one that a link leads to. @throws KilnError E_REMOTE_FILE */
  async file(path: string, name: string): Promise<void> {
    await this.#file(path, name, 0);
  }

  async tree(path: string, name: string, links: Links): Promise<void> {
    const stats = attempt(path, () => statSync(path));
    if (stats.isDirectory()) await this.#folder(path, name, links, 0);
    else await this.file(path, name);
  }

  async entry(path: string, name: string, links: Links = 'as they are', depth = 0): Promise<void> {
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (stats?.isDirectory() === true) await this.#folder(path, name, links, depth);
    else if (stats?.isFile() === true) await this.#file(path, name, constants.O_NOFOLLOW);
    else if (stats?.isSymbolicLink() === true) await this.#link(path, name, links);
    // Devices, sockets and fifos do not travel.
  }

  async emptyFolder(path: string, name: string): Promise<void> {
    const { mode } = attempt(path, () => statSync(path));
    await this.#entry({ name, type: 'directory', mode: mode & 0o777 });
  }

  async #folder(path: string, name: string, links: Links, depth: number): Promise<void> {
    if (depth > DEPTH_MAX) throw unusableError(path, `it is more than ${DEPTH_MAX} folders deep`);
    await this.emptyFolder(path, name);
    for (const child of attempt(path, () => readdirSync(path)).sort()) {
      if (child.includes('\ufffd')) throw unusableError(join(path, child), 'its name is not UTF-8');
      await this.entry(join(path, child), `${name}/${child}`, links, depth + 1);
    }
  }

  async #file(path: string, name: string, flags: number): Promise<void> {
    const quiet = constants.O_NONBLOCK | constants.O_NOCTTY;
    const fd = attempt(path, () => openSync(path, constants.O_RDONLY | quiet | flags));
    const stats = fstatSync(fd);
    if (!stats.isFile()) {
      closeSync(fd);
      throw unusableError(path, 'it is not a regular file');
    }
    const { size, mode, mtime } = stats;
    this.#count(path);
    const header = { name, size, mode: mode & 0o777, mtime };
    const entry = this.#archive.entry(header) as unknown as Writable;
    entry.on('error', () => undefined);
    const content = createReadStream(path, { fd, end: Math.max(0, size - 1) });
    let sent = 0;
    for await (const chunk of content as AsyncIterable<Buffer>) {
      const bytes = chunk.subarray(0, size - sent);
      sent += bytes.length;
      if (!entry.write(bytes)) await once(entry, 'drain');
    }
    if (sent < size) throw unusableError(path, 'it became shorter while it was read');
    entry.end();
  }

  async #link(path: string, name: string, links: Links): Promise<void> {
    const target = statSync(path, { throwIfNoEntry: false });
    if (links === 'followed' && target?.isFile() === true) await this.file(path, name);
    else await this.#entry({ name, type: 'symlink', linkname: readlinkSync(path) });
  }

  async #entry(header: Parameters<Pack['entry']>[0]): Promise<void> {
    this.#count(header.name);
    await new Promise<void>((resolve, reject) => {
      this.#archive.entry(header, (error) => (error ? reject(error) : resolve()));
    });
  }

  #count(path: string): void {
    if (++this.#names > NAMES_MAX)
      throw unusableError(path, `with it, more than ${NAMES_MAX} files would travel`);
  }
}

function attempt<Result>(path: string, act: () => Result): Result {
  try {
    return act();
  } catch (error) {
    throw unusableError(path, error instanceof Error ? reasonLine(error) : String(error));
  }
}

function unusableError(path: string, why: string): KilnError {
  return new KilnError('E_REMOTE_FILE', `${path} cannot travel: ${why}`, {
    hint: 'files and folders that you can read travel to the other machine, and nothing else',
  });
}

/** How often folders of results are looked through, ms. */
const LOOK_EVERY = 2000;
/** A file that nobody has written to for so long is taken for whole, ms. */
const SETTLED = 2000;

export async function send(output: Writable, kind: number, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; at += PIECE) {
    const more = output.write(encodeFrame(kind, bytes.subarray(at, at + PIECE)));
    if (!more && !output.destroyed) await roomIn(output);
  }
}

export async function sendArchive({ stream }: Packer, output: Writable): Promise<void> {
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    await send(output, ARCHIVE_FRAME, chunk);
  }
}

export class Results {
  readonly #names: readonly string[];
  readonly #folder: string;
  readonly #packer = new Packer();
  readonly #over: Promise<void>;
  readonly #sent = new Map<string, string>();
  #looking: Promise<void> = Promise.resolve();

  constructor(names: readonly string[], folder: string, output: Writable) {
    this.#names = names;
    this.#folder = folder;
    this.#over = awaitedLater(sendArchive(this.#packer, output));
  }

  look(): Disposable {
    const timer = setInterval(() => {
      this.#looking = awaitedLater(this.#looking.then(() => this.#take(SETTLED)));
    }, LOOK_EVERY);
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }

  async finish(): Promise<void> {
    await this.#looking;
    await this.#take(0);
    this.#packer.end();
    await this.#over;
  }

  async #take(settled: number): Promise<void> {
    for (const name of this.#names) await this.#takeFolder(name, settled);
  }

  async #takeFolder(name: string, settled: number): Promise<void> {
    const path = join(this.#folder, name);
    if (!existsSync(path)) return;
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const [from, to] = [join(path, entry.name), `${name}/${entry.name}`];
      if (entry.isDirectory()) {
        if (settled === 0) await this.#packer.emptyFolder(from, to);
        await this.#takeFolder(to, settled);
        continue;
      }
      const stats = lstatSync(from, { throwIfNoEntry: false });
      if (stats === undefined || Date.now() - stats.mtimeMs < settled) continue;
      const state = `${stats.mtimeMs} ${stats.size} ${stats.ino}`;
      if (this.#sent.get(to) === state) continue;
      this.#sent.set(to, state);
      await this.#packer.entry(from, to).catch((error) => {
        // It is gone already, or grows: the end takes what is there then.
        this.#sent.delete(to);
        if (settled === 0) throw error;
      });
    }
  }
}
