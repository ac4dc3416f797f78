/**
 * Writes a package's files below a directory. What the archive says beyond names and content is ignored: modes, times
 * and capabilities are the header's, which digest and signature cover. All files are root's.
 */
import {
  chmodSync,
  constants,
  linkSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
} from 'node:fs';
import { hasErrno } from '../../../host/calls/libc.ts';
import { sizeInWords } from '../../../host/calls/system-error.ts';
import { callName, decodeName, encodeName, showName } from '../filename.ts';
import { rpmError } from '../package.ts';
import type { CpioEntry, CpioVisitor } from './cpio.ts';
import { FileTarget } from './file-target.ts';
import type { PlannedFile, UnpackPlan } from './plan.ts';

const PERMISSIONS = 0o7777;
/** mkdir(2) takes no set-id bits. */
const SET_ID = 0o6000;
const IMPLICIT_MODE = 0o755;

interface WriterOptions {
  readonly algorithm: string;
  readonly unpackedSize: number;
}

export class PackageWriter implements CpioVisitor {
  readonly warnings: string[] = [];
  written = 0;
  readonly #plan: UnpackPlan;
  readonly #into: string;
  readonly #options: WriterOptions;
  readonly #seen = new Set<PlannedFile>();
  readonly #written = new Set<PlannedFile>();
  readonly #directories = new Set<string>();
  readonly #made: { readonly path: string | Buffer; readonly directory: boolean }[] = [];
  /** Which member of a group of hard links came with the content: rpm's last one, or several. */
  readonly #carriers = new Map<PlannedFile['links'], PlannedFile>();
  #target: FileTarget | undefined;
  #link: { readonly file: PlannedFile; readonly pieces: Buffer[] } | undefined;

  /** @param into An existing directory, without a slash at the end; `.` for the working directory. */
  constructor(plan: UnpackPlan, into: string, options: WriterOptions) {
    this.#plan = plan;
    this.#into = into;
    this.#options = options;
  }

  begin(entry: CpioEntry): number {
    const file = this.#find(entry);
    if (this.#seen.has(file)) {
      throw rpmError('E_RPM_FORMAT', `its payload has ${showName(file.path)} twice`);
    }
    this.#seen.add(file);
    const size = dataSize(entry, file);
    if (file.ghost) return size;
    switch (file.type) {
      case 'directory':
        this.#makeDirectory(file.relative);
        break;
      case 'symlink':
        this.#link = { file, pieces: [] };
        break;
      case 'file':
        this.#beginFile(file, size);
        break;
      default:
        this.warnings.push(`${showName(file.path)} is a ${file.type}: not made`);
    }
    return size;
  }

  data(piece: Buffer): void {
    this.written += piece.length;
    const { unpackedSize } = this.#options;
    if (this.written > unpackedSize) {
      throw rpmError('E_RPM_HOSTILE', `it unpacks to more than ${sizeInWords(unpackedSize)}`);
    }
    this.#target?.write(piece);
    this.#link?.pieces.push(Buffer.from(piece));
  }

  end(): void {
    this.#target?.finish();
    this.close();
    if (this.#link !== undefined) this.#makeLink(this.#link.file, Buffer.concat(this.#link.pieces));
    this.#link = undefined;
  }

  finish(): void {
    for (const file of this.#plan.files) {
      if (file.ghost || this.#seen.has(file)) continue;
      throw rpmError('E_RPM_FORMAT', `its payload lacks ${showName(file.path)}`);
    }
    for (const file of this.#plan.files) if (file.links !== undefined) this.#hardLink(file);
    const directories = this.#plan.files.filter((f) => f.type === 'directory' && !f.ghost);
    for (const { relative, mtime } of directories.reverse()) {
      utimesSync(this.#path(relative), mtime, mtime);
    }
  }

  close(): void {
    this.#target?.close();
    this.#target = undefined;
  }

  undo(): void {
    this.close();
    for (const { path, directory } of this.#made.reverse()) {
      try {
        if (directory) rmdirSync(path);
        else unlinkSync(path);
      } catch {
        // Not empty, or gone: the caller deletes the directory.
      }
    }
  }

  #find(entry: CpioEntry): PlannedFile {
    if (entry.kind === 'stripped') {
      const file = this.#plan.files[entry.index];
      if (file !== undefined) return file;
      const what = `its payload has file ${entry.index}`;
      throw rpmError('E_RPM_FORMAT', `${what}, which its header does not list`);
    }
    const name = decodeName(entry.name);
    const relative = name.replace(/^\.?\//, '').replace(/^\.$/, '');
    const file = this.#plan.byPath.get(relative);
    if (file === undefined) {
      const what = `its payload has ${showName(name)}`;
      throw rpmError('E_RPM_HOSTILE', `${what}, which its header does not list`);
    }
    if ((entry.mode & constants.S_IFMT) !== (file.mode & constants.S_IFMT)) {
      throw rpmError('E_RPM_HOSTILE', `${showName(name)} is of another type than its header says`);
    }
    return file;
  }

  #path(relative: string): string | Buffer {
    return callName(`${this.#into}/${relative}`);
  }

  #beginFile(file: PlannedFile, size: number): void {
    this.#ensureParent(file.relative);
    if (file.links !== undefined) {
      const carries = size > 0 || (file.size === 0 && file === file.links.at(-1));
      if (!carries) return;
      if (!this.#carriers.has(file.links)) this.#carriers.set(file.links, file);
    }
    this.#written.add(file);
    const { algorithm } = this.#options;
    this.#target = this.#make(file, (path) => new FileTarget(path, file, algorithm));
  }

  #makeLink(file: PlannedFile, target: Buffer): void {
    if (decodeName(target) !== file.linkTarget) {
      const what = `${showName(file.path)} points elsewhere`;
      throw rpmError('E_RPM_FORMAT', `${what} than its header says`);
    }
    this.#ensureParent(file.relative);
    this.#make(file, (path) => symlinkSync(target, path));
    lutimesSync(this.#path(file.relative), file.mtime, file.mtime);
  }

  #hardLink(file: PlannedFile): void {
    const carrier = this.#carriers.get(file.links);
    if (this.#written.has(file)) return;
    if (carrier === undefined) {
      throw rpmError('E_RPM_FORMAT', `its payload lacks the content of ${showName(file.path)}`);
    }
    this.#make(file, (path) => linkSync(this.#path(carrier.relative), path));
  }

  #make<Result>(file: PlannedFile, make: (path: string | Buffer) => Result): Result {
    const path = this.#path(file.relative);
    try {
      const made = make(path);
      this.#made.push({ path, directory: false });
      return made;
    } catch (cause) {
      if (!hasErrno(cause, 'EEXIST')) throw cause;
      throw rpmError('E_RPM_HOSTILE', `${showName(file.path)} is already in the destination`, {
        cause,
        hint: 'unpack into an empty folder',
      });
    }
  }

  #ensureParent(relative: string): void {
    const slash = relative.lastIndexOf('/');
    if (slash > 0) this.#makeDirectory(relative.slice(0, slash));
  }

  #makeDirectory(relative: string): void {
    if (this.#directories.has(relative)) return;
    this.#directories.add(relative);
    this.#ensureParent(relative);
    const entry = this.#plan.byPath.get(relative);
    const mode = entry === undefined ? IMPLICIT_MODE : entry.mode & PERMISSIONS;
    const path = this.#path(relative);
    const made = relative !== '' && makeOrFind(path, mode, relative);
    if (made) this.#made.push({ path, directory: true });
    if (entry === undefined) return;
    if (!made || (mode & SET_ID) !== 0) chmodSync(path, mode);
  }
}

/** How many bytes of data follow an entry; what the archive says must be what the header says. */
function dataSize(entry: CpioEntry, file: PlannedFile): number {
  const last = file.links === undefined || file === file.links.at(-1);
  const expected =
    (file.type === 'file' && last) || file.type === 'symlink' ? contentSize(file) : 0;
  if (entry.kind === 'stripped') return file.ghost ? 0 : expected;
  const other = file.links === undefined ? expected : contentSize(file);
  if (entry.size === expected || entry.size === other || (file.links && entry.size === 0)) {
    return entry.size;
  }
  throw rpmError(
    'E_RPM_HOSTILE',
    `${showName(file.path)} has ${entry.size} bytes in the payload, its header says ${expected}`,
  );
}

function contentSize({ type, size, linkTarget }: PlannedFile): number {
  return type === 'symlink' ? encodeName(linkTarget ?? '').length : size;
}

function makeOrFind(path: string | Buffer, mode: number, relative: string): boolean {
  try {
    mkdirSync(path, mode);
    return true;
  } catch (error) {
    if (!hasErrno(error, 'EEXIST')) throw error;
    if (lstatSync(path).isDirectory()) return false;
    throw rpmError('E_RPM_HOSTILE', `/${showName(relative)} is not a folder in the destination`);
  }
}
