import { readFile } from 'node:fs/promises';
import { release } from 'node:os';
import { type Check, fail, ok } from '../check.ts';

/** mount_setattr with ID maps is from 5.12, overlayfs on an ID-mapped layer from 5.19. */
const OLDEST = [5, 19] as const;

/** The kernel's age, and that it filters system calls. What it can do is tried, by other checks. */
export const kernel: Check = {
  name: 'kernel',
  async run() {
    const version = release();
    const [major = 0, minor = 0] = version.split('.').map(Number);
    if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
      return fail(
        `Linux ${version}`,
        'overlayfs on ID-mapped mounts needs Linux 5.19 or newer',
        "install a newer kernel of your distribution's, and reboot",
      );
    }
    const actions = await readFile('/proc/sys/kernel/seccomp/actions_avail', 'utf8').catch(
      () => '',
    );
    if (!actions.split(/\s+/).includes('errno')) {
      return fail(
        `Linux ${version} without seccomp filters`,
        "a box's system calls cannot be limited, and kiln does not run without that",
        'use a kernel that is built with CONFIG_SECCOMP_FILTER',
      );
    }
    return ok(`Linux ${version}, with seccomp filters`);
  },
};
