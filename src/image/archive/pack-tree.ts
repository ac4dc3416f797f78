import { once } from 'node:events';
import { type BigIntStats, createReadStream, fstatSync, readFileSync } from 'node:fs';
import type { Readable } from 'node:stream';
import type { Pack } from 'tar-stream';
import { Budget } from '../../artifacts/budget.ts';
import { toBytes } from '../../artifacts/byte-string.ts';
import { closing, getXattr } from '../../host/calls/descriptor.ts';
import { AT_FDCWD, openDirectory, readlinkat } from '../../host/files/at.ts';
import { checkTreeDepth } from '../../host/files/tree-usage.ts';
import { noteDone } from '../../host/process/work.ts';
import { look, namesIn, reopen, type Shown, type Stack } from '../tree/merged.ts';
import { encodePaxHeader, XATTR_PREFIX } from './pax.ts';

const CAPABILITY = 'security.capability';
const PERMISSIONS = 0o7777;
const SMALL = 256 * 1024;
/** A ustar header has room for no more. */
const NAME_LIMIT = 99;

export interface OwnerNames {
  readonly users: ReadonlyMap<number, string>;
  readonly groups: ReadonlyMap<number, string>;
}

/**
 * The archive is in pax format: owners, modes, times in seconds, hard links, and file capabilities as GNU tar
 * and podman keep them. Names are sorted, so that equal trees give equal archives. Devices, sockets and names of
 * whiteouts are left out.
 * @returns the archive, and what was left out, which is known at its end
 */
export async function packTree(
  tree: string,
  owners: OwnerNames,
): Promise<{ readonly stream: Readable; readonly skipped: string[] }> {
  const { pack } = await import('tar-stream');
  const archive = pack();
  const packer = new TreePacker(archive, owners);
  const packing = async () => {
    using root = closing(openDirectory(AT_FDCWD, tree));
    await packer.pack([root.fd]);
  };
  packing().then(
    () => archive.finalize(),
    (error) => archive.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  return { stream: archive as unknown as Readable, skipped: packer.skipped };
}

/** Archives of layers name so what is removed. */
const WHITEOUT = '.wh.';
const UNLIMITED = Number.POSITIVE_INFINITY;

export class TreePacker {
  readonly skipped: string[] = [];
  readonly #archive: Pack;
  readonly #owners: OwnerNames;
  readonly #links = new Map<string, Buffer>();
  readonly #budget: Budget;
  #entries = 0;

  constructor(
    archive: Pack,
    owners: OwnerNames,
    budget = new Budget({ visited: UNLIMITED, bytes: UNLIMITED }),
  ) {
    this.#archive = archive;
    this.#owners = owners;
    this.#budget = budget;
  }

  /** @throws KilnError E_ARTIFACT_LIMIT, E_TREE_DEPTH, SyscallError */
  async pack(layers: Stack): Promise<void> {
    const [top = -1] = layers;
    await this.#entry(Buffer.from('./'), fstatSync(top, { bigint: true }), { type: 'directory' });
    await this.#children(layers, Buffer.alloc(0), 1);
  }

  async #children(parts: Stack, prefix: Buffer, depth: number): Promise<void> {
    checkTreeDepth(depth);
    for (const name of namesIn(parts, this.#budget)) {
      if (name.startsWith(WHITEOUT)) {
        this.skipped.push(Buffer.concat([prefix, toBytes(name)]).toString());
        continue;
      }
      using open = new DisposableStack();
      const shown = look(parts, name, open);
      if (shown === undefined) continue;
      const path = Buffer.concat([prefix, toBytes(name)]);
      if (shown.stats.isDirectory()) {
        const inside = Buffer.concat([path, Buffer.from('/')]);
        await this.#entry(inside, shown.stats, { type: 'directory' });
        await this.#children(shown.parts, inside, depth + 1);
      } else await this.#leaf(path, shown);
    }
  }

  async #leaf(path: Buffer, shown: Shown): Promise<void> {
    const { stats: stat, fd: entry } = shown;
    const inode = `${stat.dev}:${stat.ino}`;
    const first = stat.nlink > 1n ? this.#links.get(inode) : undefined;
    if (first !== undefined) {
      await this.#entry(path, stat, { type: 'link', target: first });
      return;
    }
    if (stat.nlink > 1n) this.#links.set(inode, path);
    if (stat.isSymbolicLink()) {
      await this.#entry(path, stat, { type: 'symlink', target: readlinkat(entry, '') });
    } else if (stat.isFIFO()) {
      await this.#entry(path, stat, { type: 'fifo' });
    } else if (stat.isFile()) {
      using file = reopen(shown);
      if (file === undefined) {
        this.skipped.push(path.toString());
        return;
      }
      this.#budget.spend('bytes', Number(stat.size));
      const capability = getXattr(file.fd, CAPABILITY);
      await this.#entry(path, stat, { type: 'file', file: file.fd, capability });
    } else {
      this.skipped.push(path.toString());
    }
  }

  async #entry(path: Buffer, stat: BigIntStats, what: EntryKind): Promise<void> {
    noteDone(++this.#entries);
    const records = new Map<string, Buffer>();
    if (!fits(path)) records.set('path', path);
    if (what.target !== undefined && !fits(what.target)) records.set('linkpath', what.target);
    if (what.capability !== undefined) records.set(`${XATTR_PREFIX}${CAPABILITY}`, what.capability);
    if (records.size > 0) this.#archive.push(encodePaxHeader(records));
    const size = what.type === 'file' ? Number(stat.size) : 0;
    const header = {
      name: fits(path) ? path.toString() : 'see-pax-header',
      mode: Number(stat.mode) & PERMISSIONS,
      uid: Number(stat.uid),
      gid: Number(stat.gid),
      uname: this.#owners.users.get(Number(stat.uid)) ?? '',
      gname: this.#owners.groups.get(Number(stat.gid)) ?? '',
      mtime: new Date(Number(stat.mtimeNs / 1_000_000_000n) * 1000),
      type: what.type,
      size,
      ...(what.target === undefined
        ? {}
        : { linkname: fits(what.target) ? what.target.toString() : 'see-pax-header' }),
    };
    await new Promise<void>((resolve, reject) => {
      const sink = this.#archive.entry(header, (error) => (error ? reject(error) : resolve()));
      // The callback reports the error.
      sink.on('error', () => {});
      if (what.file === undefined) sink.end(undefined);
      else this.#content(what.file, size, sink).catch(reject);
    });
  }

  async #content(file: number, size: number, sink: ReturnType<Pack['entry']>): Promise<void> {
    if (size <= SMALL) {
      if (size > 0) sink.write(readFileSync(file));
      sink.end(undefined);
      return;
    }
    const source = createReadStream('', { fd: file, autoClose: false, highWaterMark: 1024 * 1024 });
    for await (const piece of source) if (!sink.write(piece)) await once(sink, 'drain');
    sink.end(undefined);
  }
}

interface EntryKind {
  readonly type: 'file' | 'directory' | 'symlink' | 'link' | 'fifo';
  readonly target?: Buffer;
  readonly file?: number;
  readonly capability?: Buffer | undefined;
}

function fits(name: Buffer): boolean {
  return name.length <= NAME_LIMIT && name.every((byte) => byte < 0x80);
}
