/**
 * Detached mounts: the host's mount table never sees them. All throw a SyscallError. Sources: open_tree(2),
 * mount_setattr(2), move_mount(2), fsopen(2), pivot_root(2), linux/mount.h.
 */
import { closeSync, constants, openSync, readFileSync, readlinkSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closeDescriptor, closing } from '../calls/descriptor.ts';
import { attempt, hasErrno, SyscallError } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';
import { parseMount } from '../cgroup/cgroup.ts';
import { AT_FDCWD, O_PATH } from './at.ts';
import { isWithin } from './user-file.ts';

const AT_EMPTY_PATH = 0x1000;
const AT_RECURSIVE = 0x8000;
const OPEN_TREE_CLONE = 1;
const OPEN_TREE_CLOEXEC = 0o2000000;
const MOVE_MOUNT_F_EMPTY_PATH = 0x4;
const FSOPEN_CLOEXEC = 1;
const MNT_DETACH = 2;
const MS_PRIVATE = 1n << 18n;

export const MOUNT_ATTR_RDONLY = 0x1;
export const MOUNT_ATTR_NOSUID = 0x2;
export const MOUNT_ATTR_NODEV = 0x4;
export const MOUNT_ATTR_NOEXEC = 0x8;
const MOUNT_ATTR_IDMAP = 0x100000;

/** @param extent `whole`: with what is mounted below */
export function cloneMount(path: string, extent: 'top' | 'whole' = 'top'): number {
  const below = extent === 'whole' ? AT_RECURSIVE : 0;
  const flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | below;
  return checked('open_tree', tryCall('open_tree', AT_FDCWD, path, flags), path);
}

interface MountAttributes {
  readonly set: number;
  /**
   * Owner ids on disk are ids *inside* this namespace (a descriptor). Once only, before the mount is attached. Without,
   * they stay the host's.
   */
  readonly userNamespace?: number;
}

/**
 * Also of mounts below, and makes the mount private. The clone of a shared mount (under systemd all are) would stay shared, and
 * mounts that a sandbox makes below a bind would appear on the host.
 */
export function setMountAttributes(mount: number, { set, userNamespace }: MountAttributes): void {
  // struct mount_attr: attr_set, attr_clr, propagation, userns_fd, each 64 bits.
  const all = BigInt(userNamespace === undefined ? set : set | MOUNT_ATTR_IDMAP);
  const attr = BigUint64Array.of(all, 0n, MS_PRIVATE, BigInt(userNamespace ?? 0));
  const flags = AT_EMPTY_PATH | AT_RECURSIVE;
  checked('mount_setattr', tryCall('mount_setattr', mount, '', flags, attr, attr.byteLength));
}

export function attachMount(mount: number, path: string): void {
  const result = tryCall('move_mount', mount, '', AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
  checked('move_mount', result, path);
}

/** Under SELinux a sandbox's init may not load a file system's module. @throws SyscallError ENODEV */
export function loadFileSystem(type: string): void {
  closeDescriptor(checked('fsopen', tryCall('fsopen', type, FSOPEN_CLOEXEC), type));
}

export function mountTmpfs(path: string, flags: number, options: string): void {
  checked('mount', tryCall('mount', 'tmpfs', path, 'tmpfs', flags, options), path);
}

/**
 * Makes the mount that `root` stands on the root of this mount namespace, for all threads, and its working
 * directory. The old tree can then be reached only through descriptors that are open already.
 */
export function changeRoot(root: number): void {
  checked('fchdir', tryCall('fchdir', root));
  checked('pivot_root', tryCall('pivot_root', '.', '.'));
  checked('umount2', tryCall('umount2', '.', MNT_DETACH));
  checked('fchdir', tryCall('fchdir', root));
}

const FSPICK_CLOEXEC = 1;
const FSPICK_EMPTY_PATH = 8;
const FSCONFIG_CMD_RECONFIGURE = 7;

/**
 * Has a file system look its names up anew: somebody has changed what it stands on.
 * @param root its root directory, open, in whatever mount namespace
 */
export function refreshNames(root: number): void {
  const flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH;
  using picked = closing(checked('fspick', tryCall('fspick', root, '', flags)));
  const result = tryCall('fsconfig', picked.fd, FSCONFIG_CMD_RECONFIGURE, null, null, 0);
  checked('fsconfig', result);
}

/* A loop device goes away with its last user. Sources: loop(4), linux/loop.h, fsconfig(2), fsmount(2). */

const LOOP_CTL_GET_FREE = 0x4c82;
const LOOP_CONFIGURE = 0x4c0a;
const LO_FLAGS_AUTOCLEAR = 4;
/** sizeof(struct loop_config), and where lo_flags of its struct loop_info64 is. */
const CONFIG_SIZE = 304;
const FLAGS_OFFSET = 8 + 52;

const FSMOUNT_CLOEXEC = 1;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;

const TRIES = 50;

function mountLoopImage(path: string, type: string): number {
  const { name, device } = attachLoop(path);
  using _device = closing(device);
  return mountDevice(name, type, path);
}

/** All mounts of one device are of the same file system. @param title what messages call it */
function mountDevice(name: string, type: string, title = name): number {
  using opened = closing(checked('fsopen', tryCall('fsopen', type, FSOPEN_CLOEXEC), type));
  const { fd: fs } = opened;
  checked('fsconfig', tryCall('fsconfig', fs, FSCONFIG_SET_STRING, 'source', name, 0), name);
  checked('fsconfig', tryCall('fsconfig', fs, FSCONFIG_CMD_CREATE, null, null, 0), title);
  const attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
  return checked('fsmount', tryCall('fsmount', fs, FSMOUNT_CLOEXEC, attributes));
}

export interface AttachedLoop {
  readonly name: string;
  /** The device is there until this is closed, and nothing has it mounted. */
  readonly device: number;
}

export function attachLoop(path: string): AttachedLoop {
  using control = closing(openSync('/dev/loop-control', constants.O_RDWR));
  using file = closing(openSync(path, constants.O_RDWR));
  const config = Buffer.alloc(CONFIG_SIZE);
  config.writeUInt32LE(file.fd, 0);
  config.writeUInt32LE(LO_FLAGS_AUTOCLEAR, FLAGS_OFFSET);
  for (let tries = 1; ; tries++) {
    const free = tryCall('ioctl', control.fd, LOOP_CTL_GET_FREE);
    const name = `/dev/loop${checked('ioctl', free, 'LOOP_CTL_GET_FREE')}`;
    const device = openSync(name, constants.O_RDWR);
    try {
      checked('ioctl', tryCall('ioctl', device, LOOP_CONFIGURE, config), 'LOOP_CONFIGURE');
      return { name, device };
    } catch (error) {
      closeSync(device);
      if (!hasErrno(error, 'EBUSY') || tries === TRIES) throw error;
    }
  }
}

export class MountTable {
  #lines = readMountLines();

  line(id: string): string | undefined {
    if (!this.#lines.has(id)) this.#lines = readMountLines();
    return this.#lines.get(id);
  }
}

function readMountLines(): Map<string, string> {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(' ')), line]));
}

/**
 * The mount of an open file, by the mount's id (proc_pid_fdinfo(5)): right even where several are stacked on
 * one mount point. @throws the error of reading /proc
 */
export function mountOf(fd: number, mounts: MountTable = new MountTable()) {
  const id = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '';
  const line = mounts.line(id);
  if (line === undefined) throw new Error(`mount ${id} is not listed in /proc/self/mountinfo`);
  const { options, superOptions, ...mount } = parseMount(line);
  return { ...mount, options: [...options, ...superOptions] };
}

export interface MountedPath {
  readonly path: string;
  readonly device: string;
  /** The path from the root of its file system, which is the same below every bind mount. */
  readonly inside: string;
}

export function mountedPath(fd: number, mounts: MountTable): MountedPath {
  const path = readlinkSync(`/proc/self/fd/${fd}`);
  const mount = mountOf(fd, mounts);
  const below = path.slice(mount.path.replace(/\/$/, '').length);
  return { path, device: mount.device, inside: `${mount.root.replace(/\/$/, '')}${below}` || '/' };
}

/** The place of a folder, if it is there. */
export function folderPlace(path: string, mounts: MountTable): MountedPath | undefined {
  using folder = attempt(() => closing(openSync(path, O_PATH | constants.O_DIRECTORY)));
  return folder && mountedPath(folder.fd, mounts);
}

/** By its path, or by another path to the same file system. */
export function isPlaceIn(place: MountedPath, folder: MountedPath): boolean {
  if (isWithin(place.path, folder.path)) return true;
  return place.device === folder.device && isWithin(place.inside, folder.inside);
}

/**
 * A detached mount of an ext4 file system of kiln's own, in a file or on a device; the caller closes it.
 * @throws KilnError E_IMAGE_MOUNT
 */
export function mountVolume(
  source: { readonly image: string } | { readonly device: string },
): number {
  const path = 'device' in source ? source.device : source.image;
  try {
    return 'device' in source ? mountDevice(path, 'ext4') : mountLoopImage(path, 'ext4');
  } catch (cause) {
    throw new KilnError('E_IMAGE_MOUNT', `cannot mount ${path}`, {
      cause,
      hint:
        cause instanceof SyscallError && cause.call === 'fsconfig'
          ? `it is damaged: \`e2fsck -fy ${path}\` may mend it, or a backup brings it back`
          : 'the host needs loop devices: is there a /dev/loop-control?',
    });
  }
}
