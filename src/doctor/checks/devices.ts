import { open } from 'node:fs/promises';
import { hasErrno } from '../../kernel/libc.ts';
import { type Check, fail, ok, reason } from '../check.ts';

/** With it libvirt shows each container a /proc/meminfo of its own. */
const FUSE = '/dev/fuse';

/** Devices that libvirt's LXC driver opens for each sandbox. */
export const devices: Check = {
  name: 'devices',
  async run() {
    try {
      await using _ = await open(FUSE, 'r+');
      return ok(`${FUSE} can be opened`);
    } catch (error) {
      const missing = hasErrno(error, 'ENOENT', 'ENXIO', 'ENODEV');
      return fail(
        `${FUSE}: ${reason(error)}`,
        'libvirt starts no container without it',
        missing
          ? `modprobe fuse; in a container: podman --device ${FUSE}`
          : `allow this device: podman --device ${FUSE}; systemd: DeviceAllow=${FUSE}`,
      );
    }
  },
};
