import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import { hasErrno, succeeds, unlessErrno } from '../calls/libc.ts';
import { PROC_SUPER_MAGIC } from '../process/process.ts';
import { shortHash } from '../process/short-hash.ts';
import { packageRoot } from './package-root.ts';

export const DEFAULT_STATE = '/var/lib/kiln';

/** Root's kiln.yaml. KILN_CONFIG is for tests, and the daemon's own variable, never a caller's. */
export const ROOTS_FILE = '/etc/kiln/kiln.yaml';

/**
 * `env.KILN_STATE` may be relative; an empty one counts as unset. States share only `hostRun`. One that is
 * reached through a symbolic link is the same state, with the same locks.
 * @throws KilnError E_STATE for a name that cannot be one
 */
export function statePaths(env: NodeJS.ProcessEnv) {
  const { KILN_STATE = '' } = env;
  // Node shows bytes that are not UTF-8 as U+FFFD: kiln would make another directory.
  if (KILN_STATE.includes('\ufffd')) throw unusableStateError(KILN_STATE, 'its name is not UTF-8');
  const root = realDirectory(resolve(KILN_STATE === '' ? DEFAULT_STATE : KILN_STATE));
  const run = join('/run/kiln', shortHash(root));
  const store = join(root, 'store');
  return {
    root,
    /** Sockets and files that live no longer than a boot: short enough for sun_path. */
    run,
    /** All states of a host share it: id ranges must be unique on the whole machine. */
    hostRun: '/run/kiln',
    cache: join(root, 'cache'),
    fixtures: env.KILN_FIXTURES ?? join(root, 'fixtures'),
    /** Root's image recipes, beside root's kiln.yaml. */
    recipes: join(dirname(env.KILN_CONFIG || ROOTS_FILE), 'recipes'),
    /** Image recipes that kiln-mock has made of configurations. */
    mockRecipes: join(root, 'mock/recipes'),
    /** One file system: packages are linked into images, and all are renamed into `trash`. */
    store,
    packages: join(store, 'packages'),
    images: join(store, 'images'),
    roots: join(store, 'roots'),
    snapshots: join(store, 'snapshots'),
    /** What sandboxes write that have their root on the disk, a folder for each. */
    written: join(store, 'written'),
    /** What is renamed to here is removed later (ext4 scans freshly deleted inodes). */
    trash: join(store, 'trash'),
    sandboxes: join(run, 'sandboxes'),
    skeleton: join(root, 'skeleton'),
    /** What machines boot. */
    machines: join(root, 'machines'),
    services: join(root, 'services'),
    runServices: join(run, 'services'),
    libvirt: join(root, 'libvirt'),
    /** A link to `root`: a path without characters that libvirt or a shell could misread. */
    link: join(run, 'state'),
  };
}

export type StatePaths = Readonly<ReturnType<typeof statePaths>>;

/** The folder of all of kiln's state. */
export interface StateRoot {
  readonly root: string;
}

/**
 * Gives the user a cache alone: nobody else can find, by its digest, what a user's recipes name or what servers
 * answer. Only root can enter `users`.
 */
export function pathsOfUser(paths: StatePaths, { uid }: { readonly uid: number }): StatePaths {
  const users = join(paths.root, 'users');
  mkdirSync(users, { recursive: true, mode: 0o700 });
  return { ...paths, cache: join(users, String(uid), 'cache') };
}

function realDirectory(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) {
      const found = lstatSync(path, { throwIfNoEntry: false });
      if (found?.isSymbolicLink() === true) {
        throw unusableStateError(path, 'it is a symbolic link to what is not there', error);
      }
      // Another kiln has made it in between.
      if (found !== undefined) return realDirectory(path);
      return join(realDirectory(dirname(path)), basename(path));
    }
    if (hasErrno(error, 'ENOTDIR')) return path;
    throw unusableStateError(path, (error as Error).message, error);
  }
}

function unusableStateError(root: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_STATE', `cannot keep kiln’s state in ${root}: ${why}`, {
    hint: `name a folder in KILN_STATE, or leave it unset for ${DEFAULT_STATE}`,
    cause,
  });
}

/** Makes the state's folder on /run. The link tells everybody whose it is, as long as it is there. */
export function makeRunFolder({ root, hostRun, run, link }: StatePaths): void {
  for (const folder of [hostRun, run]) {
    mkdirSync(folder, { recursive: true });
    // Ids of sandboxes pass through it, whatever the umask.
    chmodSync(folder, 0o711);
  }
  if (unlessErrno(['ENOENT'], () => readlinkSync(link)) === root) return;
  rmSync(link, { force: true });
  unlessErrno(['EEXIST'], () => symlinkSync(root, link));
}

/** Numbers of a daemon that is gone (counters.ts) keep no folder. */
const NUMBERS = ['claims.json', 'waiting.json'];

/** Removes it if nothing but the link and numbers are in it. */
export function removeEmptyRunFolder(paths: StatePaths): void {
  const names = unlessErrno(['ENOENT'], () => readdirSync(paths.run));
  const idle = [basename(paths.link), ...NUMBERS];
  if (names === undefined || names.some((name) => !idle.includes(name))) return;
  rmSync(paths.link, { force: true });
  for (const name of NUMBERS) rmSync(join(paths.run, name), { force: true });
  // Somebody has just put something in.
  if (!succeeds(['ENOTEMPTY', 'ENOENT'], () => rmdirSync(paths.run))) makeRunFolder(paths);
}

/**
 * Refuses what is no directory and cannot become one: everything kiln said about its content would be wrong.
 * @param root absolute
 * @throws KilnError E_STATE
 */
export function requireState(root: string): void {
  let at = root;
  let found = look(at);
  while (found === undefined) {
    at = dirname(at);
    found = look(at);
  }
  if (!found.isDirectory()) throw unusableStateError(root, `${at} is not a folder`);
  if (at !== root && statfsSync(at).type === PROC_SUPER_MAGIC) {
    throw unusableStateError(root, `no folder can be made in ${at}`);
  }
}

function look(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (hasErrno(error, 'ENOTDIR')) return undefined;
    throw unusableStateError(path, (error as Error).message, error);
  }
}

/** A program of src/programs, as a file of dist/ where this runs from there. */
export function programPath(name: 'confined' | 'egress-proxy' | 'watch-disk'): string {
  const isSource = import.meta.url.endsWith('.ts');
  return join(packageRoot(), isSource ? `src/programs/${name}.ts` : `dist/${name}.cjs`);
}

export const KILN_VERSION = '0.1.0';
