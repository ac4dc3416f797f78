/**
 * Mounting a file system image without a mount point: a loop device that goes away by itself with
 * its last user, and a detached mount of it.
 * Sources: loop(4), linux/loop.h, fsopen(2), fsconfig(2), fsmount(2). All throw a SyscallError.
 */
import { closeSync, constants, openSync } from 'node:fs';
import { closeDescriptor } from './descriptor.ts';
import { hasErrno } from './libc.ts';
import { MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID } from './mount.ts';
import { checked, tryCall } from './system-call.ts';

const LOOP_CTL_GET_FREE = 0x4c82;
const LOOP_CONFIGURE = 0x4c0a;
const LO_FLAGS_AUTOCLEAR = 4;
/** sizeof(struct loop_config), and where lo_flags of its struct loop_info64 is. */
const CONFIG_SIZE = 304;
const FLAGS_OFFSET = 8 + 52;

const FSOPEN_CLOEXEC = 1;
const FSMOUNT_CLOEXEC = 1;
const FSCONFIG_SET_STRING = 1;
const FSCONFIG_CMD_CREATE = 6;

/** How often a free loop device that somebody else was faster to take is asked for again. */
const TRIES = 50;

/**
 * Mounts the image at `path`, nosuid and nodev, nowhere: gives a descriptor of the mount, which the caller
 * closes. The loop device lives as long as the mount does.
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
    // Without a mount this was its last user, and it is free again.
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
