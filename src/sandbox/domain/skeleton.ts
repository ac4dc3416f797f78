import { hash } from 'node:crypto';
import { chmodSync, existsSync, readFileSync, type Stats, statSync } from 'node:fs';
import { copyFile, mkdir, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { removeTree } from '../../host/files/remove-tree.ts';
import { shortHash } from '../../host/process/short-hash.ts';
import { findRecord, withFields, writeRecord } from '../../host/state/checked-file.ts';
import { clearPlace, renameOver, setAside, tellDamage } from '../../host/state/damage.ts';
import { packageRoot } from '../../host/state/package-root.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { awaitedLater } from '../../promise.ts';

/**
 * Mount points. `.oldroot`: libvirt pivots there. `.kiln`: the init's socket. `sys/fs/cgroup`: with the host's
 * network a mapped user cannot mount a /sys that has it. `stage`: what the init prepares before it has an image.
 * `names`: the layer with the sandbox's /etc/hosts. The rest belongs to libvirt and the init.
 */
export const MOUNT_POINTS = [
  ...['.oldroot', '.kiln', 'lower', 'names', 'scratch', 'newroot', 'dev', 'proc', 'sys/fs/cgroup'],
  ...['stage/proc', 'stage/dev'],
];

export const LAYOUT = shortHash(MOUNT_POINTS.join('\n'));

export const INIT_PATH = '/kiln-init';

export function requireInit(): { readonly path: string; readonly stat: Stats } {
  const path = join(packageRoot(), 'dist', INIT_PATH);
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat !== undefined) return { path, stat };
  throw new KilnError('E_NO_GUEST_INIT', 'the guest init has not been compiled', {
    hint: 'run `scripts/quickstart`, or `npm run build` where a C compiler and a static C library are',
  });
}

const making = new Map<string, Promise<string>>();

/** Size and time stand for the init's content, which would take long to read. */
function skeletonOf(paths: StatePaths, { size, mtimeMs }: Stats): string {
  return join(paths.skeleton, `${size}-${Math.floor(mtimeMs)}-${LAYOUT}`);
}

const takeInit = withFields<{ size: number; sha256: string }>({ size: 'number', sha256: 'string' });

function initRecordFile(skeleton: string): string {
  return join(skeleton, 'kiln-init.json');
}

export function noteInit(skeleton: string): void {
  const bytes = readFileSync(join(skeleton, INIT_PATH));
  writeRecord(initRecordFile(skeleton), { size: bytes.length, sha256: hash('sha256', bytes) });
}

function isMade(skeleton: string): boolean {
  const found = statSync(join(skeleton, INIT_PATH), { throwIfNoEntry: false });
  if (found?.isFile() !== true) return false;
  return findRecord(initRecordFile(skeleton), takeInit).value?.size === found.size;
}

const FOLDERS = [
  ...new Set(
    MOUNT_POINTS.flatMap((point) => {
      const parts = point.split('/');
      return ['', ...parts.map((_, index) => parts.slice(0, index + 1).join('/'))];
    }),
  ),
];

/** Traversable for mapped ids; nothing in it is secret. */
const MODE = 0o755;

/**
 * Lets a sandbox's mapped root reach its skeleton. Folders that were made under another umask have wrong modes, so
 * modes are checked at each start (some 30 µs). Throws E_STATE_PRIVATE for a folder above KILN_STATE.
 */
function openFor(paths: StatePaths, skeleton: string): string {
  requirePassable(dirname(paths.root));
  const inner = FOLDERS.map((folder) => join(skeleton, folder));
  for (const path of [paths.root, paths.skeleton, ...inner, join(skeleton, INIT_PATH)]) {
    const mode = statSync(path, { throwIfNoEntry: false })?.mode;
    if (mode === undefined) continue;
    // KILN_STATE need not be listable, only traversable.
    const needed = path === paths.root ? 0o111 : MODE;
    if ((mode & needed) !== needed) chmodSync(path, (mode & 0o7777) | needed);
  }
  return skeleton;
}

export function knownSkeleton(paths: StatePaths): string | undefined {
  const skeleton = skeletonOf(paths, requireInit().stat);
  return isMade(skeleton) ? openFor(paths, skeleton) : undefined;
}

function damageOf(skeleton: string): string | undefined {
  if (!existsSync(skeleton)) return undefined;
  const { value } = findRecord(initRecordFile(skeleton), takeInit);
  const init = join(skeleton, INIT_PATH);
  if (value === undefined || !isMade(skeleton) || !hasDigest(init, value.sha256)) {
    return 'its kiln-init has changed';
  }
  const lost = MOUNT_POINTS.find((point) => !existsSync(join(skeleton, point)));
  return lost === undefined ? undefined : `its ${lost} is gone`;
}

const checked = new Map<string, string>();

/** Read once: what changes a file's content changes its ctime. A megabyte for each sandbox makes the daemon grow. */
function hasDigest(init: string, digest: string): boolean {
  const { ino, ctimeNs } = statSync(init, { bigint: true });
  const seen = `${ino} ${ctimeNs} ${digest}`;
  if (checked.get(init) === seen) return true;
  if (hash('sha256', readFileSync(init)) !== digest) return false;
  checked.set(init, seen);
  return true;
}

export async function ensureSkeleton(paths: StatePaths): Promise<string> {
  const source = requireInit();
  const quick = skeletonOf(paths, source.stat);
  const why = damageOf(quick);
  if (why !== undefined) tellDamage({ path: quick, why, done: 'it is made again' });
  else if (isMade(quick)) return openFor(paths, quick);
  const made = making.get(quick) ?? awaitedLater(makeSkeleton(paths, source.path, quick));
  making.set(quick, made);
  try {
    return await made;
  } finally {
    making.delete(quick);
  }
}

async function makeSkeleton(paths: StatePaths, source: string, target: string): Promise<string> {
  const digest = hash('sha256', await readFile(source)).slice(0, 12);
  const half = join(paths.skeleton, `.${digest}.${process.pid}`);
  await mkdir(half, { recursive: true });
  for (const point of MOUNT_POINTS) await mkdir(join(half, point), { recursive: true });
  await copyFile(source, join(half, INIT_PATH));
  noteInit(half);
  openFor(paths, half);
  try {
    await rename(half, target);
  } catch (error) {
    if (!hasErrno(error, 'EEXIST', 'ENOTEMPTY', 'ENOTDIR')) throw error;
    // Another kiln made it first, or it is damaged. Running sandboxes keep the init they have.
    await mend(half, target);
    await removeTree(half);
  }
  return openFor(paths, target);
}

async function mend(whole: string, target: string): Promise<void> {
  clearFile(target);
  clearPlace(join(target, INIT_PATH));
  await mkdir(target, { recursive: true });
  for (const point of MOUNT_POINTS) {
    clearFile(join(target, point));
    await mkdir(join(target, point), { recursive: true });
  }
  await rename(join(whole, INIT_PATH), join(target, INIT_PATH));
  renameOver(initRecordFile(whole), initRecordFile(target));
}

function clearFile(path: string): void {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() === true) setAside(path);
}

export function requirePassable(directory: string): void {
  for (let path = directory; ; path = dirname(path)) {
    if ((statSync(path).mode & 0o001) === 0) {
      const what = `${path} is closed to other users, but sandboxes must pass it`;
      throw new KilnError('E_STATE_PRIVATE', what, {
        hint: `chmod o+x ${path}, or set KILN_STATE to another folder`,
      });
    }
    if (path === dirname(path)) return;
  }
}
