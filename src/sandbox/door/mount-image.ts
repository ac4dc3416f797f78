import { KilnError } from '../../errors.ts';
import { SyscallError } from '../../host/calls/libc.ts';
import { mountDevice, mountLoopImage } from '../../host/files/mount.ts';

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
