import {
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  writeFileSync,
} from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { homedir } from 'node:os';
import { setImmediate as breathe } from 'node:timers/promises';
import { isKilnCode, KilnError } from '../../errors.ts';
import { closing, getXattrOf, setXattrOf } from '../../host/calls/descriptor.ts';
import { unlessErrno } from '../../host/calls/libc.ts';
import {
  AT_FDCWD,
  DirectoryReader,
  O_PATH,
  openat2,
  openPath,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_WITHIN,
} from '../../host/files/at.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { layerMissingError } from '../policy/layers.ts';
import type { SandboxSpecification } from '../policy/specification.ts';
import type { SandboxLabels } from './module.ts';
import { securityModule } from './module.ts';
import { fileContext, IMAGE_CONTEXT } from './selinux.ts';

/** The attribute with a file's SELinux context: a string with its NUL (libselinux, setfilecon(3)). */
const ATTRIBUTE = 'security.selinux';

/** A folder with more files was probably bound by mistake. */
const MOST_FILES = 2_000_000;

const BATCH = 500;

/** Relabelling one of these would break the host; podman refuses the same. */
const SYSTEM_DIRECTORIES = new Set(
  '/ /bin /boot /dev /etc /home /lib /lib32 /lib64 /libx32 /media /mnt /opt /proc /root /run /sbin /srv /sys /tmp /usr /usr/bin /usr/lib /usr/lib64 /usr/sbin /var /var/lib /var/log /var/tmp'.split(
    ' ',
  ),
);

const BELOW = {
  flags: constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW,
  resolve: RESOLVE_WITHIN | RESOLVE_NO_MAGICLINKS,
};

function contextOf(fd: number): string | undefined {
  return getXattrOf(fd, ATTRIBUTE)?.toString('latin1').replace(/\0$/, '');
}

export function contextAt(path: string): string | undefined {
  using file = closing(openPlace(realpathSync(path)));
  return contextOf(file.fd);
}

function setContext(fd: number, context: string): void {
  if (contextOf(fd) !== context) setXattrOf(fd, ATTRIBUTE, Buffer.from(`${context}\0`));
}

function openPlace(place: string | number): number {
  const flags = O_PATH | constants.O_NOFOLLOW;
  // Of a folder or a file, and no link, since it is open already.
  if (typeof place === 'number') return openSync(`/proc/self/fd/${place}`, O_PATH);
  return openat2(AT_FDCWD, place, { flags });
}

export function labelFile(path: string, context: string): void {
  using file = closing(openPlace(path));
  setContext(file.fd, context);
}

/**
 * @param place a path, or a descriptor. Follows no links and stays on the file system. The place
 * itself comes last, so that {@link hasContext} is true only for a complete tree. Throws E_RELABEL.
 */
export async function relabelTree(place: string | number, context: string): Promise<void> {
  try {
    using root = closing(openPlace(place));
    if (fstatSync(root.fd).isDirectory()) await relabelBelow(root.fd, context);
    setContext(root.fd, context);
  } catch (error) {
    if (isKilnCode(error, 'E_RELABEL')) throw error;
    throw new KilnError('E_RELABEL', `cannot give ${place} the context ${context}`, {
      cause: error,
      hint: 'its file system must keep labels of its own: not NFS, not one mounted with context=',
    });
  }
}

async function relabelBelow(root: number, context: string): Promise<void> {
  const directories: Buffer[] = [Buffer.from('.')];
  let count = 0;
  for (let path = directories.pop(); path !== undefined; path = directories.pop()) {
    const folder = path;
    // The entry may be gone, or on another file system.
    const gone = ['ENOENT', 'ENOTDIR', 'ELOOP', 'EXDEV'];
    using opened = unlessErrno(gone, () => closing(openat2(root, folder, BELOW)));
    if (opened === undefined) continue;
    for (const { name } of new DirectoryReader(opened.fd)) {
      if (++count > MOST_FILES) throw tooManyError();
      if (labelEntry(opened.fd, name, context)) {
        directories.push(Buffer.concat([path, Buffer.from('/'), name]));
      }
      if (count % BATCH === 0) await breathe();
    }
  }
}

function labelEntry(directory: number, name: Buffer, context: string): boolean {
  using entry = unlessErrno(['ENOENT'], () => closing(openPath(directory, name)));
  if (entry === undefined) return false;
  setContext(entry.fd, context);
  return fstatSync(entry.fd).isDirectory();
}

function tooManyError(): KilnError {
  return new KilnError('E_RELABEL', `more than ${MOST_FILES} files would get another label`, {
    hint: 'bind a smaller folder, or label it yourself (semanage fcontext, restorecon)',
  });
}

export function hasContext(path: string, context: string): boolean {
  using file = closing(openPlace(path));
  return contextOf(file.fd) === context;
}

/** @param fd what `path` has been opened as */
export function refuseSystemDirectory(path: string, fd: number): void {
  const real = readlinkSync(`/proc/self/fd/${fd}`);
  if (!SYSTEM_DIRECTORIES.has(real) && real !== homedir()) return;
  throw new KilnError('E_RELABEL', `${path} is not relabelled: the host needs it as it is`, {
    hint: 'bind a folder below it, or leave z and Z away',
  });
}

const OWN = '/proc/thread-self/attr/current';

let lowered = false;

/**
 * SELinux: drops the categories that this thread has beyond its low level. Pipes and sockets get the highest
 * level of their maker, root's shell has all, and a sandbox with a pair could not use them. Throws
 * E_LAYER_MISSING.
 */
export function lowerOwnRange(): void {
  if (lowered || securityModule() !== 'selinux') return;
  const own = readFileSync(OWN, 'latin1').replace(/[\0\n]+$/, '');
  const [, low] = /^([^:]+:[^:]+:[^:]+:[^-]+)-/.exec(own) ?? [];
  try {
    if (low !== undefined) writeFileSync(OWN, low);
  } catch (cause) {
    throw layerMissingError('selinux', `kiln, as ${own}, may not become ${low}`, cause);
  }
  lowered = true;
}

export async function labelForImages(tree: string): Promise<void> {
  if (securityModule() === 'selinux') await relabelTree(tree, IMAGE_CONTEXT);
}

/**
 * Images, packages, the skeleton and what machines boot get the context that every sandbox may read. New files inherit it, so it is
 * done once. Throws E_RELABEL.
 */
export async function ensureStoreContext(paths: StatePaths): Promise<void> {
  if (securityModule() !== 'selinux') return;
  for (const folder of [paths.store, paths.skeleton, paths.machines]) {
    await mkdir(folder, { recursive: true, mode: 0o755 });
    if (!hasContext(folder, IMAGE_CONTEXT)) await relabelTree(folder, IMAGE_CONTEXT);
  }
}

/** SELinux: a folder for what a sandbox writes. @throws KilnError E_RELABEL */
export async function relabelScratch(scratch: string, labels: SandboxLabels): Promise<void> {
  if (labels.module === 'selinux' && labels.files !== undefined) {
    await relabelTree(scratch, labels.files);
  }
}

/**
 * SELinux: files of the host that the sandbox may write to get the context of its own files, binds with z or Z
 * the one asked for. Throws E_RELABEL.
 */
export async function relabelSources(
  specification: SandboxSpecification,
  labels: SandboxLabels | undefined,
): Promise<void> {
  if (labels?.module !== 'selinux' || labels.files === undefined) return;
  const { binds, scratch, volumes } = specification;
  if (scratch !== undefined) {
    mkdirSync(scratch, { recursive: true });
    await relabelTree(scratch, labels.files);
  }
  for (const { source } of volumes) await relabelTree(source, labels.files);
  for (const { source, place, relabel } of binds) {
    if (relabel === undefined) continue;
    using opened = closing(openSync(place, O_PATH));
    refuseSystemDirectory(source, opened.fd);
    await relabelTree(opened.fd, relabel === 'shared' ? fileContext('s0') : labels.files);
  }
}
