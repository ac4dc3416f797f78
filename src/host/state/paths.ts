import {
  existsSync,
  lstatSync,
  mkdirSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../calls/libc.ts';
import { PROC_SUPER_MAGIC } from '../process/process.ts';
import { shortHash } from '../process/short-hash.ts';

/** The places where kiln keeps its files. All paths are absolute. */
export interface StatePaths {
  /** `KILN_STATE`, default /var/lib/kiln. */
  readonly root: string;
  /** Sockets and files that live no longer than a boot: /run/kiln/HASH, short enough for sun_path. */
  readonly run: string;
  /** Shared by all states of this host: id ranges must be unique on the whole machine. */
  readonly hostRun: string;
  /** Downloads and repository metadata; may be deleted at any time. */
  readonly cache: string;
  /** What recipes call KILN_FIXTURES. */
  readonly fixtures: string;
  /** Unpacked packages, one folder each, named by the RPM's sha256. Below `store` so that hard links work. */
  readonly packages: string;
  /** Images, one folder each, named by image id. */
  readonly images: string;
  /** kiln-mock's persistent roots, one folder each. Below `store`, so that they can be renamed into `trash`. */
  readonly roots: string;
  /** The folder that holds `packages` and `images`: one file system, one mount. */
  readonly store: string;
  /** Deleted trees: renamed to here at once, removed later (ext4 scans freshly deleted inodes). */
  readonly trash: string;
  /** One folder a claimed sandbox: its state, its owner, its socket. They live no longer than a boot. */
  readonly sandboxes: string;
  /** The constant root of every sandbox. */
  readonly skeleton: string;
  /** One folder for each service: its definition, its /etc and /var, its logs. */
  readonly services: string;
  /** Sockets and locks of the services' supervisors. */
  readonly runServices: string;
  /** The embedded libvirtd's private files. */
  readonly libvirt: string;
  /** A link in `run` to `root`: a path without characters that libvirt or a shell could misread. */
  readonly link: string;
}

/** Where the state is unless KILN_STATE says otherwise. */
export const DEFAULT_STATE = '/var/lib/kiln';

/**
 * The layout of the state directory that `env.KILN_STATE` names. It may be relative to the working directory;
 * an empty one counts as unset. Two state directories share only `hostRun`. A state that is reached through a
 * symbolic link is the same state, with the same locks.
 * @throws KilnError E_STATE for a name that cannot be one
 */
export function statePaths(env: NodeJS.ProcessEnv): StatePaths {
  const { KILN_STATE = '' } = env;
  // Node shows bytes that are not UTF-8 as U+FFFD: kiln would make another directory.
  if (KILN_STATE.includes('\ufffd')) throw unusableState(KILN_STATE, 'its name is not UTF-8');
  const root = realDirectory(resolve(KILN_STATE === '' ? DEFAULT_STATE : KILN_STATE));
  const run = join('/run/kiln', shortHash(root));
  const store = join(root, 'store');
  return {
    root,
    run,
    hostRun: '/run/kiln',
    cache: join(root, 'cache'),
    fixtures: env.KILN_FIXTURES ?? join(root, 'fixtures'),
    store,
    packages: join(store, 'packages'),
    images: join(store, 'images'),
    roots: join(store, 'roots'),
    trash: join(store, 'trash'),
    sandboxes: join(run, 'sandboxes'),
    skeleton: join(root, 'skeleton'),
    services: join(root, 'services'),
    runServices: join(run, 'services'),
    libvirt: join(root, 'libvirt'),
    link: join(run, 'state'),
  };
}

/**
 * The paths with a cache of a user's own: nobody else can find, by its digest, what a user's recipes name or
 * what servers answer. Only root can enter `users`.
 */
export function pathsOfUser(paths: StatePaths, { uid }: { readonly uid: number }): StatePaths {
  const users = join(paths.root, 'users');
  mkdirSync(users, { recursive: true, mode: 0o700 });
  return { ...paths, cache: join(users, String(uid), 'cache') };
}

/** The path without symbolic links, even if its end does not exist yet. */
function realDirectory(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) {
      if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) {
        throw unusableState(path, 'it is a symbolic link to what is not there', error);
      }
      return join(realDirectory(dirname(path)), basename(path));
    }
    // The code that needs the directory reports that it is not one.
    if (hasErrno(error, 'ENOTDIR')) return path;
    throw unusableState(path, (error as Error).message, error);
  }
}

function unusableState(root: string, why: string, cause?: unknown): KilnError {
  return new KilnError('E_STATE', `cannot keep kiln’s state in ${root}: ${why}`, {
    hint: `name a directory in KILN_STATE, or leave it unset for ${DEFAULT_STATE}`,
    cause,
  });
}

/** Makes {@link StatePaths.link} in an existing folder. */
export function linkState({ root, link }: Pick<StatePaths, 'root' | 'link'>): void {
  try {
    if (readlinkSync(link) === root) return;
    rmSync(link);
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error;
  }
  try {
    symlinkSync(root, link);
  } catch (error) {
    // Another process made it first.
    if (!hasErrno(error, 'EEXIST')) throw error;
  }
}

/**
 * Refuses a state directory (absolute) that is not a directory and cannot become one: everything kiln said
 * about its content would be wrong. Takes one stat if the directory exists.
 * @throws KilnError E_STATE
 */
export function requireState(root: string): void {
  let at = root;
  let found = look(at);
  while (found === undefined) {
    at = dirname(at);
    found = look(at);
  }
  if (!found.isDirectory()) throw unusableState(root, `${at} is not a directory`);
  if (at !== root && statfsSync(at).type === PROC_SUPER_MAGIC) {
    throw unusableState(root, `no directory can be made in ${at}`);
  }
}

/** Below a file there is nothing. */
function look(path: string) {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if (hasErrno(error, 'ENOTDIR')) return undefined;
    throw unusableState(path, (error as Error).message, error);
  }
}

/**
 * The folder of kiln's own package.json, whether kiln runs from src/ or from dist/. recipes/, dist/ and
 * scripts/ lie in it.
 */
export function packageRoot(): string {
  for (let folder = import.meta.dirname; folder !== '/'; folder = dirname(folder)) {
    if (existsSync(join(folder, 'package.json'))) return folder;
  }
  throw new KilnError('E_INSTALLATION', 'kiln cannot find its own files', {
    hint: 'run kiln from a checkout or from its installed package, with all of it in place',
  });
}

/** The version of kiln; package.json has the same (a test compares them). */
export const KILN_VERSION = '0.1.0';
