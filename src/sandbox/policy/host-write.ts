/** Folders that commands may write only if the caller confirms it: writing there controls the host or others. */
import { closeSync, openSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { O_PATH } from '../../host/files/at.ts';
import type { HeldPath } from '../../host/files/held.ts';
import { folderPlace, isPlaceIn, MountTable, mountedPath } from '../../host/files/mount.ts';
import type { Bind } from './specification.ts';

const SYSTEM = [
  ...['/bin', '/boot', '/dev', '/etc', '/lib', '/lib32', '/lib64', '/libx32', '/proc', '/run'],
  ...['/sbin', '/sys', '/usr', '/var/lib/dpkg', '/var/lib/rpm', '/var/lib/libvirt'],
  ...['/var/lib/systemd', '/var/spool/cron'],
];

/** Folders inside those that belong to people all the same. */
const PEOPLES = ['/dev/shm', '/run/media', '/run/user', '/usr/local/src', '/usr/src'];

/** The first id of a person; lower ones are the system's, and the last one of 16 bits is nobody's. */
const FIRST_PERSON = 1000;
const NOBODY = 65534;

interface OpenedBind {
  readonly source: string;
  readonly place: HeldPath;
  readonly noLinks?: true;
}

export function openBind({ source, place, noLinks }: OpenedBind): number {
  let fd: number;
  try {
    fd = openSync(place, O_PATH);
  } catch (error) {
    throw new KilnError('E_BIND', `cannot bind ${source}`, {
      hint: 'SRC of --bind SRC:DST is a file or folder of this host: make it first',
      cause: error,
    });
  }
  if (noLinks === undefined || readlinkSync(`/proc/self/fd/${fd}`) === source) return fd;
  closeSync(fd);
  throw new KilnError('E_BIND', `cannot bind ${source}: a part of that path is a symbolic link`, {
    hint: 'a job may have put the link there: name the folder by a path without links',
  });
}

interface Folders {
  readonly root: string;
  readonly hostRun: string;
}

interface Kept {
  readonly path: string;
  readonly why: string;
  /** Set if only the folder itself is protected, not what is below it. */
  readonly only?: true;
}

/**
 * Refuses a writable bind of what the host needs: its programs, configuration and devices, kiln's own state,
 * home directories, and every folder that contains one of them. Checks the file that `fd` has open, so that no
 * link can be put in its place afterwards. Throws E_BIND.
 * @param source as the caller named it
 */
export function refuseHostWrite(
  paths: Folders,
  source: string,
  fd: number,
  caller: { readonly uid: number },
): void {
  const mounts = new MountTable();
  const place = mountedPath(fd, mounts);
  const peoples = PEOPLES.some((path) => {
    const folder = folderPlace(path, mounts);
    return folder !== undefined && isPlaceIn(place, folder);
  });
  for (const kept of keptFolders(paths, place.path, caller.uid)) {
    const folder = folderPlace(kept.path, mounts);
    if (folder === undefined) continue;
    const inIt = isPlaceIn(place, folder);
    if (kept.only === true ? inIt && place.inside !== folder.inside : peoples) continue;
    if (!inIt && !isPlaceIn(folder, place)) continue;
    const what = place.path === source ? source : `${source} (${place.path})`;
    const where =
      place.path === kept.path ? '' : inIt ? ` in ${kept.path},` : ` with ${kept.path} in it,`;
    const confirm =
      caller.uid === 0
        ? '; if the command may change this part of the host, confirm with --allow-host-write'
        : '';
    throw new KilnError('E_BIND', `${what} is not bound writable:${where} ${kept.why}`, {
      hint: `bind read-only (SRC:DST:ro) or a folder of its own${confirm}`,
    });
  }
}

interface HostFiles {
  readonly hostFiles: boolean;
  readonly allowHostWrite: boolean;
}

/**
 * For a command that may mount: refuses writable binds. An overlay with a bind as its upper directory copies
 * set-id files of the image into the bind; the kernel does that itself, so no filter of system calls sees the
 * mode. Throws E_BIND.
 */
export function refuseCopyUp({ hostFiles, allowHostWrite }: HostFiles): void {
  if (!hostFiles || allowHostWrite) return;
  const what = 'a command that may mount file systems cannot have a writable bind';
  throw new KilnError('E_BIND', what, {
    hint: 'it could put set-id files of the image into the bind, on the host: bind read-only (SRC:DST:ro), or confirm with --allow-host-write',
  });
}

/**
 * For a command with SYS_ADMIN in the sandbox's own user namespace: nothing locks the flags of mounts there, so it could
 * take the read-only off. In a namespace that it makes, with `--profile nested`, the kernel locks them. Throws E_BIND.
 */
export function refuseRemount({ shownFiles, allowHostWrite }: ShownFiles): void {
  if (!shownFiles || allowHostWrite) return;
  throw new KilnError('E_BIND', 'a command with SYS_ADMIN cannot have files of this host', {
    hint: 'it could mount a read-only bind, or /usr of -r host, writable: leave SYS_ADMIN out, take --profile nested, or confirm with --allow-host-write',
  });
}

interface ShownFiles {
  readonly shownFiles: boolean;
  readonly allowHostWrite: boolean;
}

interface HostBinds {
  readonly binds: readonly Bind[];
  readonly allowHostWrite: boolean;
}

export function refuseHostWrites(
  paths: Folders,
  { binds, allowHostWrite }: HostBinds,
  caller: { readonly uid: number },
): void {
  if (allowHostWrite) return;
  for (const bind of binds) {
    if (bind.readonly || bind.own === true) continue;
    using file = closing(openBind(bind));
    refuseHostWrite(paths, bind.source, file.fd, caller);
  }
}

function keptFolders({ root, hostRun }: Folders, place: string, uid: number): Kept[] {
  return [
    ...[root, hostRun].map((path) => ({ path, why: 'kiln keeps its state there' })),
    ...SYSTEM.map((path) => ({ path, why: 'the host lives on it' })),
    { path: '/home', why: 'it has home directories', only: true },
    ...homes(uid),
    ...foreignHome(place, uid),
  ];
}

function homes(caller: number): Kept[] {
  const accounts = readFileSync('/etc/passwd', 'utf8').split('\n');
  return accounts.flatMap((line): Kept[] => {
    const [name = '', , id = '', , , home = ''] = line.split(':');
    const uid = Number(id);
    const person = uid === 0 || (uid >= FIRST_PERSON && uid !== NOBODY);
    // Some accounts have a folder that is not theirs, such as /.
    if (!person || !home.startsWith('/') || ownerOf(home) !== uid || home === '/') return [];
    const why = `it is the home directory of ${name}`;
    return uid !== caller
      ? [{ path: home, why }]
      : [
          { path: home, why, only: true },
          { path: `${home}/.ssh`, why: 'its keys open the account' },
        ];
  });
}

function foreignHome(place: string, caller: number): Kept[] {
  const home = /^\/home\/[^/]+/.exec(place)?.[0];
  if (home === undefined) return [];
  const owner = ownerOf(home);
  if (owner === undefined || owner === caller || owner < FIRST_PERSON) return [];
  return [{ path: home, why: `it is the home directory of user ${owner}` }];
}

function ownerOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.uid;
}
