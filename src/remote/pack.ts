/** Files on their way to the other end of a connection: a tar archive, entry by entry. */
import { once } from 'node:events';
import {
  type BigIntStats,
  closeSync,
  constants,
  createReadStream,
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

/** What becomes of symbolic links in a folder. */
export type Links =
  /** They are kept as they are. */
  | 'as they are'
  /** Those to files are followed. */
  | 'followed';

/** Names that a tree may have, and folders within folders: more is a mistake of whoever named it. */
const NAMES_MAX = 200_000;
const DEPTH_MAX = 200;

export class Packer {
  readonly #archive: Pack = pack();
  #names = 0;

  /** The archive; whoever reads it slowly holds up whoever packs. */
  get stream(): Readable {
    return this.#archive as unknown as Readable;
  }

  /** Ends the archive. */
  end(): void {
    this.#archive.finalize();
  }

  /** Packs a regular file, or what a link to one leads to. @throws KilnError E_REMOTE_FILE */
  async file(path: string, name: string): Promise<void> {
    await this.#file(path, name, 0);
  }

  /** Packs what a path leads to: a folder with all that is in it, or a file. @throws KilnError E_REMOTE_FILE */
  async tree(path: string, name: string, links: Links): Promise<void> {
    const stats = attempt(path, () => statSync(path));
    if (stats.isDirectory()) await this.#folder(path, name, links, 0);
    else await this.file(path, name);
  }

  /** Packs an entry of a folder: a link itself. @throws KilnError E_REMOTE_FILE */
  async entry(path: string, name: string, links: Links = 'as they are', depth = 0): Promise<void> {
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (stats?.isDirectory() === true) await this.#folder(path, name, links, depth);
    else if (stats?.isFile() === true) await this.#file(path, name, constants.O_NOFOLLOW);
    else if (stats?.isSymbolicLink() === true) await this.#link(path, name, links);
    // Devices, sockets and fifos do not travel.
  }

  /** Packs a folder without what is in it. */
  async emptyFolder(path: string, name: string): Promise<void> {
    const mode = Number(attempt(path, () => statSync(path)).mode) & 0o777;
    await this.#entry({ name, type: 'directory', mode });
  }

  async #folder(path: string, name: string, links: Links, depth: number): Promise<void> {
    if (depth > DEPTH_MAX) throw unusable(path, `it is more than ${DEPTH_MAX} folders deep`);
    await this.emptyFolder(path, name);
    for (const child of attempt(path, () => readdirSync(path)).sort()) {
      if (child.includes('\ufffd')) throw unusable(join(path, child), 'its name is not UTF-8');
      await this.entry(join(path, child), `${name}/${child}`, links, depth + 1);
    }
  }

  async #file(path: string, name: string, flags: number): Promise<void> {
    const quiet = constants.O_NONBLOCK | constants.O_NOCTTY;
    const fd = attempt(path, () => openSync(path, constants.O_RDONLY | quiet | flags));
    const stats = fstatSync(fd, { bigint: true });
    if (!stats.isFile()) {
      closeSync(fd);
      throw unusable(path, 'it is not a regular file');
    }
    await this.#content(fd, stats, path, name);
  }

  async #link(path: string, name: string, links: Links): Promise<void> {
    const target = statSync(path, { throwIfNoEntry: false });
    if (links === 'followed' && target?.isFile() === true) await this.file(path, name);
    else await this.#entry({ name, type: 'symlink', linkname: readlinkSync(path) });
  }

  async #content(fd: number, stats: BigIntStats, path: string, name: string): Promise<void> {
    const size = Number(stats.size);
    this.#count(path);
    const mode = Number(stats.mode) & 0o777;
    const mtime = new Date(Number(stats.mtimeMs));
    const header = { name, size, mode, mtime };
    const entry = this.#archive.entry(header) as unknown as Writable;
    entry.on('error', () => undefined);
    const content = createReadStream(path, { fd, end: Math.max(0, size - 1) });
    let sent = 0;
    for await (const chunk of content as AsyncIterable<Buffer>) {
      const bytes = chunk.subarray(0, size - sent);
      sent += bytes.length;
      if (!entry.write(bytes)) await once(entry, 'drain');
    }
    if (sent < size) throw unusable(path, 'it became shorter while it was read');
    entry.end();
  }

  async #entry(header: Parameters<Pack['entry']>[0]): Promise<void> {
    this.#count(header.name);
    await new Promise<void>((resolve, reject) => {
      this.#archive.entry(header, (error) => (error ? reject(error) : resolve()));
    });
  }

  #count(path: string): void {
    if (++this.#names > NAMES_MAX)
      throw unusable(path, `with it, more than ${NAMES_MAX} files would travel`);
  }
}

function attempt<Result>(path: string, act: () => Result): Result {
  try {
    return act();
  } catch (error) {
    throw unusable(path, error instanceof Error ? reasonLine(error) : String(error));
  }
}

function unusable(path: string, why: string): KilnError {
  return new KilnError('E_REMOTE_FILE', `${path} cannot travel: ${why}`, {
    hint: 'files and folders that you can read travel to the other machine, and nothing else',
  });
}
