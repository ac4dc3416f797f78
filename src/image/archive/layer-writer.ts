import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  lchownSync,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  type Stats,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { Header } from 'tar-stream';
import { toBytes } from '../../artifacts/byte-string.ts';
import { KilnError } from '../../errors.ts';
import { setXattr } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import { sizeInWords } from '../../host/calls/system-error.ts';
import { leaveWhiteout } from '../../host/files/at.ts';
import { removeTreeNow } from '../../host/files/remove-tree.ts';
import { noteDone } from '../../host/process/work.ts';
import { diskExceededError } from '../../host/state/disk-watch.ts';
import { type PaxRecords, XATTR_PREFIX } from './pax.ts';

export interface UnpackLayersInput {
  readonly maxBytes: number;
  readonly maxEntries: number;
  /** False: names of whiteouts are names like others. */
  readonly whiteouts?: boolean;
  /** As src/guest/machine/layer.c writes it: a whiteout is a device 0:0, and attributes of users are kept. */
  readonly overlay?: boolean;
}

export interface UnpackLayersOutput {
  readonly bytes: number;
  readonly entries: number;
  readonly warnings: readonly string[];
}

/** The only extended attribute of an image that is kept: it changes what a file may do. */
const CAPABILITY = 'security.capability';

/** OCI image specification, layer.md: names that delete an entry, or empty their folder. */
const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';

/** Beside the folder of the layer. */
const RENAMED = '.renamed';

const PERMISSIONS = 0o7777;
/** The highest id that a sandbox maps. */
const MAX_ID = 65535;
const MAX_WARNINGS = 20;

export interface EntryTarget {
  write(piece: Buffer): void;
  end(): void;
}

const NOTHING: EntryTarget = { write: () => {}, end: () => {} };

/**
 * Applies tar entries to the root directory of this process, which is the image's, so links cannot lead out.
 * Names are latin1 strings that stand for bytes.
 */
export class LayerWriter {
  readonly #limits: UnpackLayersInput;
  readonly #warnings: string[] = [];
  #bytes = 0;
  #entries = 0;
  /** Paths that this layer made: its own opaque markers must not delete them. */
  #layer = new Set<string>();
  /** Set last, because writing into a directory changes its times. */
  readonly #times = new Map<string, Date>();

  constructor(limits: UnpackLayersInput) {
    this.#limits = limits;
  }

  beginLayer(): void {
    this.#layer = new Set();
  }

  begin(header: Header, pax: PaxRecords | undefined): EntryTarget {
    noteDone(this.#entries);
    if (++this.#entries > this.#limits.maxEntries) {
      throw tooLargeError(`more than ${this.#limits.maxEntries} files`);
    }
    const name = pax?.get('path')?.toString('latin1') ?? header.name;
    const path = this.#normal(name);
    if (path === '/') {
      if (header.type !== 'directory') throw hostileError('its file / is not a folder');
      return this.#directory('/', header, lstatSync('/'));
    }
    const base = basename(path);
    if (this.#limits.whiteouts !== false && base.startsWith(WHITEOUT))
      return this.#whiteout(path, base);
    this.#makeParents(path);
    this.#layer.add(path);
    const present = find(path);
    if (header.type === 'directory') return this.#directory(path, header, present, pax);
    if (present !== undefined) this.#replace(path, present, header);
    if (this.#limits.overlay === true && isWhiteout(header)) {
      makeWhiteout(path);
      return NOTHING;
    }
    switch (header.type) {
      case 'file':
      case 'contiguous-file':
        return this.#file(path, header, pax);
      case 'symlink':
        return this.#symlink(path, header, pax);
      case 'link': {
        const target = pax?.get('linkpath')?.toString('latin1') ?? header.linkname ?? '';
        const first = this.#normal(target);
        // Maybe one that the link's own name has just made.
        if (find(first)?.isDirectory()) throw hostileError(`its hard link ${path} is of a folder`);
        linkSync(toBytes(first), toBytes(path));
        return NOTHING;
      }
      default:
        this.#warn(`${path} is a ${header.type ?? 'strange entry'}: left out`);
        return NOTHING;
    }
  }

  finish(): void {
    for (const [path, time] of this.#times) {
      // A later entry may have put a file in the place of a folder above.
      const now = unlessErrno(['ENOTDIR'], () => find(path));
      if (now?.isDirectory()) utimesSync(toBytes(path), time, time);
    }
  }

  summary(): UnpackLayersOutput {
    return { bytes: this.#bytes, entries: this.#entries, warnings: this.#warnings };
  }

  #normal(name: string): string {
    const parts = name.split('/').filter((part) => part !== '' && part !== '.');
    if (parts.includes('..') || name.includes('\0')) throw hostileError(`it has the name ${name}`);
    return `/${parts.join('/')}`;
  }

  #whiteout(path: string, base: string): EntryTarget {
    const folder = dirname(path);
    if (base === OPAQUE) {
      const inside = find(folder)?.isDirectory() ? readdirSync(toBytes(folder), 'latin1') : [];
      for (const name of inside) {
        const child = join(folder, name);
        if (!this.#layer.has(child)) removeTreeNow(toBytes(child));
      }
      return NOTHING;
    }
    const target = join(folder, base.slice(WHITEOUT.length));
    if (target === folder || basename(target) === '..')
      throw hostileError(`it has the name ${path}`);
    // Look first: an impossible name is the archive's mistake, not a failed removal.
    if (!this.#layer.has(target) && find(target) !== undefined) removeTreeNow(toBytes(target));
    return NOTHING;
  }

  #makeParents(path: string): void {
    const folder = dirname(path);
    if (folder === '/' || isDirectory(folder)) return;
    this.#makeParents(folder);
    const present = find(folder);
    // A link to a folder serves as the folder; anything else in the way is replaced by this layer.
    if (present !== undefined) removeTreeNow(toBytes(folder));
    mkdirSync(toBytes(folder), 0o755);
  }

  #replace(path: string, present: Stats, header: Header): void {
    // A hard link to itself: some archives have it for the second name of a pair.
    if (header.type === 'link' && header.linkname && this.#normal(header.linkname) === path) return;
    if (present.isDirectory()) removeTreeNow(toBytes(path));
    else unlinkSync(toBytes(path));
  }

  #directory(
    path: string,
    header: Header,
    present: Stats | undefined,
    pax?: PaxRecords,
  ): EntryTarget {
    if (present?.isDirectory() !== true) {
      if (present !== undefined) removeTreeNow(toBytes(path));
      mkdirSync(toBytes(path), 0o700);
    }
    const { uid, gid } = owner(header);
    lchownSync(toBytes(path), uid, gid);
    if (this.#limits.overlay === true) {
      const fd = openSync(toBytes(path), constants.O_RDONLY | constants.O_DIRECTORY);
      for (const [name, value] of this.#attributes(pax)) setXattr(fd, name, value);
      closeSync(fd);
    }
    chmodSync(toBytes(path), (header.mode ?? 0o755) & PERMISSIONS);
    this.#times.set(path, header.mtime ?? new Date(0));
    return NOTHING;
  }

  #file(path: string, header: Header, pax: PaxRecords | undefined): EntryTarget {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
    const fd = openSync(toBytes(path), flags, 0o600);
    return {
      write: (piece) => {
        this.#bytes += piece.length;
        if (this.#bytes > this.#limits.maxBytes) {
          throw tooLargeError(`more than ${sizeInWords(this.#limits.maxBytes)}`);
        }
        for (let at = 0; at < piece.length; ) at += writeSync(fd, piece, at);
      },
      end: () => {
        const { uid, gid } = owner(header);
        fchownSync(fd, uid, gid);
        fchmodSync(fd, (header.mode ?? 0o644) & PERMISSIONS);
        for (const [name, value] of this.#attributes(pax)) setXattr(fd, name, value);
        closeSync(fd);
        const time = header.mtime ?? new Date(0);
        utimesSync(toBytes(path), time, time);
      },
    };
  }

  /** That are kept. */
  #attributes(pax: PaxRecords | undefined): [string, Buffer][] {
    const isKept = (name: string) =>
      this.#limits.overlay === true ? name.startsWith('user.') : name === CAPABILITY;
    return [...(pax ?? [])].flatMap(([key, value]): [string, Buffer][] => {
      const name = key.startsWith(XATTR_PREFIX) ? key.slice(XATTR_PREFIX.length) : '';
      return isKept(name) ? [[name, value]] : [];
    });
  }

  #symlink(path: string, header: Header, pax: PaxRecords | undefined): EntryTarget {
    const target = pax?.get('linkpath') ?? Buffer.from(header.linkname ?? '', 'latin1');
    symlinkSync(target, toBytes(path));
    const { uid, gid } = owner(header);
    lchownSync(toBytes(path), uid, gid);
    const time = header.mtime ?? new Date(0);
    lutimesSync(toBytes(path), time, time);
    return NOTHING;
  }

  #warn(text: string): void {
    if (this.#warnings.length < MAX_WARNINGS) this.#warnings.push(text);
  }
}

function isWhiteout({ type, devmajor = 0, devminor = 0 }: Header): boolean {
  return type === 'character-device' && devmajor === 0 && devminor === 0;
}

/** The kernel makes one in place of what is renamed: a confined child can make no device. */
function makeWhiteout(path: string): void {
  const folders = [dirname(path), '/'].map((folder) =>
    openSync(toBytes(folder), constants.O_RDONLY | constants.O_DIRECTORY),
  ) as [number, number];
  try {
    const [folder, spare] = folders;
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    closeSync(openSync(toBytes(path), flags, 0o600));
    leaveWhiteout(folder, toBytes(basename(path)), spare, RENAMED);
    unlinkSync(`/${RENAMED}`);
  } finally {
    for (const fd of folders) closeSync(fd);
  }
}

function find(path: string): Stats | undefined {
  return lstatSync(toBytes(path), { throwIfNoEntry: false });
}

function isDirectory(path: string): boolean {
  try {
    closeSync(openSync(toBytes(path), constants.O_RDONLY | constants.O_DIRECTORY));
    return true;
  } catch {
    return false;
  }
}

function owner({ uid = 0, gid = 0 }: Header): { uid: number; gid: number } {
  if (uid <= MAX_ID && gid <= MAX_ID) return { uid, gid };
  throw hostileError(`it has an owner that no sandbox has room for: ${uid}:${gid}`);
}

function tooLargeError(what: string): KilnError {
  const hint = '`kiln image import --disk 64G` allows more';
  return diskExceededError('unpacking the archive', what, hint);
}

function hostileError(what: string): KilnError {
  return new KilnError('E_ARCHIVE_HOSTILE', `the archive is refused: ${what}`, {
    hint: 'kiln imports only what stays inside its own tree: get the archive from a source that you trust',
  });
}
