import { closeSync, openSync } from 'node:fs';
import {
  access,
  chmod,
  constants,
  mkdtemp,
  open,
  readdir,
  rmdir,
  stat,
  statfs,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { counted } from '../../counted.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { openat2, RESOLVE_IN_ROOT } from '../../host/files/at.ts';
import {
  cloneMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOSUID,
  mountOf,
  setMountAttributes,
} from '../../host/files/mount.ts';
import { runTool } from '../../host/process/child-process.ts';
import { createUserNamespace } from '../../host/process/user-namespace.ts';
import { findDamage } from '../../host/state/kinds.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { idBlock, RANGE_SIZE } from '../../host/state/reservation.ts';
import { sourceOf } from '../../image/reference.ts';
import { type HeldImages, heldImages } from '../../image/store/images.ts';
import { shellWord } from '../../shell-words.ts';
import { type Check, fail, ok, reason, warn } from '../check.ts';

const GIB = 2 ** 30;
/** Free bytes of the state directory: room for a build root's image, its packages, and a build in it. */
const NEEDED = 2 * GIB;
/** With less, there is a warning. */
const COMFORTABLE = 10 * GIB;
/** Inodes for two such images. */
const NEEDED_FILES = 50_000;

export const stateDirectory: Check = {
  name: 'state-directory',
  async run({ paths }) {
    const root = await nearestExisting(paths.root);
    const mount = await mountOfPath(root);
    const space = await statfs(root);
    const free = space.bavail * space.bsize;
    const found = `${paths.root}: ${mount.type}, ${(free / GIB).toFixed(1)} GiB free`;

    for (let folder = root; ; folder = dirname(folder)) {
      const { mode, uid } = await stat(folder);
      if ((mode & 0o001) === 0) {
        return fail(
          found,
          `sandboxes cannot reach their image: ${folder} is closed to other users`,
          `chmod o+x ${folder}, or set KILN_STATE to another place`,
        );
      }
      if ((mode & 0o002) !== 0 && (mode & 0o1000) === 0) {
        return fail(
          found,
          `everybody may replace the store: ${folder} is writable by others`,
          `chmod o-w ${folder}, or set KILN_STATE to another place`,
        );
      }
      if (folder === root && root === paths.root && uid !== (process.geteuid?.() ?? uid)) {
        // What lies below has owners of its own: services' files, and those of images.
        return fail(found, `${root} belongs to uid ${uid}`, `chown root: ${root}`);
      }
      if (folder === '/') break;
    }
    const exposed = root === paths.root ? await writableFolders([root, paths.store]) : [];
    if (exposed.length > 0) {
      const problem = `others may replace what is in ${exposed.join(', ')}`;
      return fail(found, problem, `chmod go-w ${exposed.join(' ')}`);
    }
    const refused = await access(root, constants.W_OK).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (refused !== undefined) {
      const how = hasErrno(refused, 'EROFS') ? 'is read-only' : 'is not writable';
      return fail(found, `${root} ${how}`, 'set KILN_STATE to a folder that can be written');
    }
    if (mount.options.includes('noexec')) {
      return fail(
        found,
        `${mount.path} is mounted noexec: nothing in an image can be executed`,
        `mount -o remount,exec ${mount.path}, or set KILN_STATE to another place`,
      );
    }
    const freeFiles = space.files === 0 ? Number.POSITIVE_INFINITY : space.ffree;
    if (free < NEEDED || freeFiles < NEEDED_FILES) {
      const lacks = free < NEEDED ? 'space' : 'inodes';
      return fail(
        found,
        `too little ${lacks} for one image: ${NEEDED / GIB} GiB and ${NEEDED_FILES} inodes are needed`,
        'kiln gc, or set KILN_STATE to a larger file system',
      );
    }
    if (free < COMFORTABLE) {
      return warn(found, 'room for few images', 'kiln gc, or a larger file system for KILN_STATE');
    }
    return ok(found);
  },
};

/** These and the folders in them, of which others than the owner may write to. */
async function writableFolders(folders: readonly string[]): Promise<string[]> {
  const found = new Set<string>();
  for (const folder of folders) {
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
    const inner = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
    for (const path of [folder, ...inner.map((name) => join(folder, name))]) {
      const mode = (await stat(path).catch(() => undefined))?.mode ?? 0;
      if ((mode & 0o022) !== 0 && (mode & 0o1000) === 0) found.add(path);
    }
  }
  return [...found];
}

async function mountOfPath(path: string) {
  await using file = await open(path);
  return mountOf(file.fd);
}

async function nearestExisting(path: string): Promise<string> {
  for (let folder = path; ; folder = dirname(folder)) {
    const found = await stat(folder).catch(() => undefined);
    if (found?.isDirectory() || folder === '/') return folder;
  }
}

const NAMED = 5;

/** Large files are checked when they are used. */
export const stateFiles: Check = {
  name: 'state-files',
  async run({ paths }) {
    const damage = findDamage(paths);
    const held = await heldImages(paths);
    if (damage.length === 0) return ok(`no damaged file in ${paths.root}`);
    const lines = damage
      .slice(0, NAMED)
      .map(
        ({ kind, error }) => `${error.message}${kind.mend === undefined ? '' : `; ${kind.mend}`}`,
      );
    const more = damage.length > NAMED ? ` (and ${damage.length - NAMED} more)` : '';
    const files = counted(damage.length, 'damaged file');
    const mending = damage.map(({ file }) => mendingCommands(paths, file, held));
    const commands = new Set((await Promise.all(mending)).flat());
    // At last, for what the others leave behind.
    const all = [...commands, GC];
    return warn(
      `${files} in ${paths.root}`,
      `${lines.join('; ')}${more}`,
      `${all.join('; ')}; look whether the disk fails, or was full`,
    );
  },
};

/** Throws away what can be made anew. */
const GC = 'kiln gc';

/** What else than {@link GC} is needed. @param file that tells of damage */
async function mendingCommands(
  paths: StatePaths,
  file: string,
  held: HeldImages,
): Promise<readonly string[]> {
  const [, service] = /\/services\/([^/]+)\/(?:previous\/)?image\.json$/.exec(file) ?? [];
  if (service !== undefined) return [`kiln service upgrade ${shellWord(service)}`];
  const [, image = '', name] = /\/images\/([0-9a-f]{64})\/(\w+)\.json$/.exec(file) ?? [];
  const its = held.service(image);
  if (its !== undefined) return [`kiln service upgrade ${shellWord(its)}`];
  if (name === 'contents') {
    const source = await sourceOf(paths, image);
    if (source !== undefined) return [`kiln image build ${shellWord(source)}`];
  }
  const sandbox = held.sandbox(image);
  const end = sandbox === undefined ? [] : [`kiln kill ${sandbox}`];
  return [...end, ...(name === 'contents' ? [`kiln image rm ${image.slice(0, 12)}`] : [])];
}

export const runDirectory: Check = {
  name: 'run-directory',
  async run({ paths }) {
    const existing = await nearestExisting(paths.hostRun);
    const { uid, mode } = await stat(existing);
    const { type } = await mountOfPath(existing);
    const found = `${paths.hostRun} on ${type}`;
    if (uid !== 0 || (mode & 0o022) !== 0) {
      return fail(
        `${existing}: owner ${uid}, mode ${(mode & 0o7777).toString(8)}`,
        'others could put a socket where kiln looks for its own',
        `chown root:root ${existing} && chmod 755 ${existing}`,
      );
    }
    const exposed = await writableFolders([paths.run]);
    if (exposed.length > 0) {
      const problem = `others may replace the sockets and records in ${exposed.join(', ')}`;
      return fail(found, problem, `chmod go-w ${exposed.join(' ')}`);
    }
    if (type !== 'tmpfs') {
      return warn(
        found,
        'what is left there after a crash of the machine survives the boot',
        `mount a tmpfs on /run, as every systemd host has, or rm -r ${paths.hostRun} after a crash`,
      );
    }
    return ok(found);
  },
};

export const idMappedMounts: Check = {
  name: 'id-mapped-mounts',
  async run({ paths }) {
    const directory = await nearestExisting(paths.root);
    const { type } = await mountOfPath(directory);
    try {
      const { start } = await idBlock();
      const ids = [{ inside: 0, outside: start, count: RANGE_SIZE }];
      using user = closing(createUserNamespace(ids));
      using mount = closing(cloneMount(directory));
      const set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
      setMountAttributes(mount.fd, { set, userNamespace: user.fd });
      return ok(`${type} below ${directory} takes an ID map`);
    } catch (error) {
      const unsupported = hasErrno(error, 'EINVAL');
      return fail(
        `${type} below ${directory}: ${reason(error)}`,
        'images cannot be mounted in sandboxes',
        unsupported
          ? 'set KILN_STATE to a file system with ID-mapped mounts: ext4, xfs, btrfs, tmpfs'
          : 'run as root, outside of containers that forbid open_tree and mount_setattr',
      );
    }
  },
};

/** In namespaces of its own, with the upper layer on a tmpfs, as the guest init has it. */
const TRIAL = `
set -eu
mount -n -t tmpfs -o size=1m tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/merged"
mount -n -t overlay -o "userxattr,lowerdir=.,upperdir=$1/upper,workdir=$1/work" overlay "$1/merged"
echo trial > "$1/merged/.kiln-doctor"
test -s "$1/upper/.kiln-doctor"
`;

export const overlay: Check = {
  name: 'overlay',
  async run({ paths }) {
    const lower = await nearestExisting(paths.root);
    const { type } = await mountOfPath(lower);
    // Any directory serves as mount point, because nobody else sees it. The ids are a sandbox's: this process's
    // own could be mapped only with CAP_SETFCAP.
    const { start } = await idBlock();
    const ids = [{ inside: 0, outside: start, count: RANGE_SIZE }];
    using userNamespace = closing(createUserNamespace(ids));
    const enter = [
      ...[`--user=/proc/${process.pid}/fd/${userNamespace.fd}`, 'unshare', '--mount'],
      ...['--propagation', 'private', 'sh', '-c', TRIAL, 'sh', '/sys'],
    ];
    // A lower layer must have no mount below it, which the state's parent may have (/var/lib with containers).
    const made = await mkdtemp(join(lower, '.kiln-doctor-')).catch(() => undefined);
    if (made !== undefined) await chmod(made, 0o755);
    const tried = await runTool('nsenter', enter, { cwd: made ?? lower });
    if (made !== undefined) await rmdir(made);
    if (tried.failure === undefined) return ok(`overlayfs on ${type}, in a user namespace`);
    return fail(
      `overlayfs on ${type}: ${reason(tried.failure)}`,
      'a sandbox cannot make its image writable for itself',
      'modprobe overlay; if that does not help, set KILN_STATE to ext4, xfs, btrfs or tmpfs',
    );
  },
};

export const openat2Call: Check = {
  name: 'openat2',
  async run({ paths }) {
    using root = closing(openSync(await nearestExisting(paths.root), constants.O_RDONLY));
    try {
      // If `..` left the root, this would open another directory, or none.
      const flags = constants.O_RDONLY | constants.O_DIRECTORY;
      closeSync(openat2(root.fd, '../../../..', { flags, resolve: RESOLVE_IN_ROOT }));
      return ok('openat2 works: paths can be kept inside a tree');
    } catch (error) {
      return fail(
        `openat2: ${reason(error)}`,
        'artifacts cannot be collected safely',
        hasErrno(error, 'ENOSYS', 'EPERM')
          ? 'use Linux 5.6 or newer; in a container, a seccomp profile that knows openat2'
          : 'see what forbids it: dmesg, journalctl',
      );
    }
  },
};
