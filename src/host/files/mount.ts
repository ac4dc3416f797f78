/**
 * Detached mounts: made from a path, changed, handed on as a descriptor, attached elsewhere; the
 * host's mount table never sees them. All throw a SyscallError.
 *
 * Sources: open_tree(2), mount_setattr(2), move_mount(2), fsopen(2), pivot_root(2), linux/mount.h.
 */
import { closeSync, constants, openSync, readFileSync, readlinkSync } from 'node:fs';
import { closeDescriptor } from '../calls/descriptor.ts';
import { hasErrno } from '../calls/libc.ts';
import { checked, tryCall } from '../calls/system-call.ts';
import { unescapeOctal } from '../cgroup/cgroup.ts';

const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const OPEN_TREE_CLONE = 1;
const OPEN_TREE_CLOEXEC = 0o2000000;
const MOVE_MOUNT_F_EMPTY_PATH = 0x4;
const FSOPEN_CLOEXEC = 1;
const MNT_DETACH = 2;
const MS_PRIVATE = 1n << 18n;

/** `attr_set` flags of mount_setattr. */
export const MOUNT_ATTR_RDONLY = 0x1;
export const MOUNT_ATTR_NOSUID = 0x2;
export const MOUNT_ATTR_NODEV = 0x4;
export const MOUNT_ATTR_NOEXEC = 0x8;
const MOUNT_ATTR_IDMAP = 0x100000;

/**
 * A detached copy of the mount at `path`, without the mounts below it, as a close-on-exec descriptor. The
 * caller closes it. Needs CAP_SYS_ADMIN.
 */
export function cloneMount(path: string): number {
  const flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC;
  return checked('open_tree', tryCall('open_tree', AT_FDCWD, path, flags), path);
}

/** What {@link setMountAttributes} changes. */
interface MountAttributes {
  /** MOUNT_ATTR_ flags to switch on; IDMAP is added when `userNamespace` is given. */
  readonly set: number;
  /**
   * Owner ids on disk are read as ids *inside* this namespace (a descriptor). Can be set once, before the mount
   * is attached.
   */
  readonly userNamespace?: number;
}

/**
 * Changes the attributes of the detached mount `mount` and makes it private. The clone of a shared mount (all
 * mounts are shared under systemd) would be shared with it, and mounts that a sandbox makes below a bind would
 * appear on the host.
 */
export function setMountAttributes(mount: number, attributes: MountAttributes): void {
  const idmap = attributes.userNamespace === undefined ? 0 : MOUNT_ATTR_IDMAP;
  // struct mount_attr: attr_set, attr_clr, propagation, userns_fd, each 64 bits.
  const attr = BigUint64Array.of(
    BigInt(attributes.set | idmap),
    0n,
    MS_PRIVATE,
    BigInt(attributes.userNamespace ?? 0),
  );
  const size = attr.byteLength;
  checked('mount_setattr', tryCall('mount_setattr', mount, '', AT_EMPTY_PATH, attr, size));
}

/** Attaches a detached mount at `path` of this process's mount namespace. */
export function attachMount(mount: number, path: string): void {
  const result = tryCall('move_mount', mount, '', AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
  checked('move_mount', result, path);
}

/**
 * Makes the kernel load the module of a file system. Usually mounting does so, but under SELinux a sandbox's
 * init may not. Throws a SyscallError: ENODEV if there is no such module.
 */
export function loadFileSystem(type: string): void {
  closeDescriptor(checked('fsopen', tryCall('fsopen', type, FSOPEN_CLOEXEC), type));
}

/** mount(2) of a tmpfs. `flags` are MS_ flags, `options` as in tmpfs(5), e.g. `size=64k,mode=755`. */
export function mountTmpfs(path: string, flags: number, options: string): void {
  checked('mount', tryCall('mount', 'tmpfs', path, 'tmpfs', flags, options), path);
}

/**
 * Makes the mount that `root` stands on the root of this mount namespace, for all threads of the process, and
 * detaches the old root. Afterwards `/` and the working directory are the new root, and the old tree can be
 * reached only through descriptors that are open already.
 */
export function changeRoot(root: number): void {
  checked('fchdir', tryCall('fchdir', root));
  checked('pivot_root', tryCall('pivot_root', '.', '.'));
  checked('umount2', tryCall('umount2', '.', MNT_DETACH));
  checked('fchdir', tryCall('fchdir', root));
}

/*
 * Mounting a file system image without a mount point: a loop device that goes away by itself with
 * its last user, and a detached mount of it.
 * Sources: loop(4), linux/loop.h, fsopen(2), fsconfig(2), fsmount(2). All throw a SyscallError.
 */

const LOOP_CTL_GET_FREE = 0x4c82;
const LOOP_CONFIGURE = 0x4c0a;
const LO_FLAGS_AUTOCLEAR = 4;
/** sizeof(struct loop_config), and where lo_flags of its struct loop_info64 is. */
const CONFIG_SIZE = 304;
const FLAGS_OFFSET = 8 + 52;

const FSMOUNT_CLOEXEC = 1;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;

/** How often to ask for another free loop device after another process took the last one. */
const TRIES = 50;

/**
 * Makes a detached mount of the image at `path`, nosuid and nodev. The caller closes the returned descriptor.
 * The loop device lives as long as the mount does.
 */
export function mountLoopImage(path: string, type: string): number {
  const { name, device } = attachLoop(path);
  try {
    const fs = checked('fsopen', tryCall('fsopen', type, FSOPEN_CLOEXEC), type);
    try {
      checked('fsconfig', tryCall('fsconfig', fs, FSCONFIG_SET_STRING, 'source', name, 0), name);
      checked('fsconfig', tryCall('fsconfig', fs, FSCONFIG_CMD_CREATE, null, null, 0), path);
      const attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
      return checked('fsmount', tryCall('fsmount', fs, FSMOUNT_CLOEXEC, attributes));
    } finally {
      closeDescriptor(fs);
    }
  } finally {
    // Without a mount, this was the device's last user, and the device is free again.
    closeSync(device);
  }
}

/** Takes a free loop device for a file. The caller closes the device. */
function attachLoop(path: string): { readonly name: string; readonly device: number } {
  const control = openSync('/dev/loop-control', constants.O_RDWR);
  const file = openSync(path, constants.O_RDWR);
  try {
    for (let tries = 1; ; tries++) {
      const number = checked(
        'ioctl',
        tryCall('ioctl', control, LOOP_CTL_GET_FREE),
        'LOOP_CTL_GET_FREE',
      );
      const name = `/dev/loop${number}`;
      const device = openSync(name, constants.O_RDWR);
      const config = Buffer.alloc(CONFIG_SIZE);
      config.writeUInt32LE(file, 0);
      config.writeUInt32LE(LO_FLAGS_AUTOCLEAR, FLAGS_OFFSET);
      try {
        checked('ioctl', tryCall('ioctl', device, LOOP_CONFIGURE, config), 'LOOP_CONFIGURE');
        return { name, device };
      } catch (error) {
        closeSync(device);
        if (!hasErrno(error, 'EBUSY') || tries === TRIES) throw error;
      }
    }
  } finally {
    closeSync(file);
    closeSync(control);
  }
}

/** A mount of this process's namespace. */
interface MountPoint {
  readonly path: string;
  /** MAJOR:MINOR of its file system. */
  readonly device: string;
  /** The folder of the file system that it shows. */
  readonly root: string;
  /** The file system, as in /proc/filesystems. */
  readonly type: string;
  /** The mount's own options and the file system's: `rw`, `noexec`, … */
  readonly options: readonly string[];
}

/**
 * The mounts of this process. The table is read once for many questions, because reading it takes longer than
 * answering them.
 */
export class MountTable {
  #lines = readMountLines();

  /** The line of mountinfo for a mount; undefined if there is none, or if the mount is newer than the table. */
  line(id: string): string | undefined {
    if (!this.#lines.has(id)) this.#lines = readMountLines();
    return this.#lines.get(id);
  }
}

/** By the mount's id, which comes first. */
function readMountLines(): Map<string, string> {
  const lines = readFileSync('/proc/self/mountinfo', 'utf8').split('\n');
  return new Map(lines.map((line) => [line.slice(0, line.indexOf(' ')), line]));
}

/**
 * The mount that an open file is on, by the mount's id (proc_pid_fdinfo(5), proc_pid_mountinfo(5)). This is
 * right even where several mounts are stacked on one mount point.
 * @throws the error of reading /proc
 */
export function mountOf(fd: number, mounts: MountTable = new MountTable()): MountPoint {
  const id = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '';
  const line = mounts.line(id);
  if (line === undefined) throw new Error(`mount ${id} is not listed in /proc/self/mountinfo`);
  // 36 35 98:0 /root /mount/point rw,noatime shared:1 - type source rw,superoptions
  const [own = '', fileSystem = ''] = line.split(' - ');
  const [, , device = '', root = '', path = '', options = ''] = own.split(' ');
  const [type = '', , superOptions = ''] = fileSystem.split(' ');
  return {
    ...{ path: unescapeOctal(path), device, root: unescapeOctal(root), type },
    options: [...options.split(','), ...superOptions.split(',')],
  };
}

/** A file's place. */
export interface MountedPath {
  /** Its absolute path, without links. */
  readonly path: string;
  /** MAJOR:MINOR of its file system. */
  readonly device: string;
  /** Its path from the root of its file system, which is the same below every bind mount. */
  readonly inside: string;
}

/**
 * The place of the file that `fd` has open (O_PATH suffices), with links, `..` and bind mounts resolved. Throws
 * as {@link mountOf}.
 */
export function mountedPath(fd: number, mounts: MountTable): MountedPath {
  const path = readlinkSync(`/proc/self/fd/${fd}`);
  const mount = mountOf(fd, mounts);
  const below = path.slice(mount.path.replace(/\/$/, '').length);
  return { path, device: mount.device, inside: `${mount.root.replace(/\/$/, '')}${below}` || '/' };
}

/** Whether `path` is `above`, or lies below it. Both are absolute, without links. */
export function isWithin(path: string, above: string): boolean {
  return path === above || path.startsWith(above === '/' ? '/' : `${above}/`);
}
