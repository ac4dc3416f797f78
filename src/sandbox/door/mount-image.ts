import { KilnError } from '../../errors.ts';
import { SyscallError } from '../../host/calls/libc.ts';
import { mountLoopImage } from '../../host/files/mount.ts';

/** A detached mount of a file with an ext4 file system; the caller closes it. @throws KilnError E_IMAGE_MOUNT */
export function mountImage(path: string): number {
  try {
    return mountLoopImage(path, 'ext4');
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
