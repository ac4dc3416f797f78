import { type Check, fail, ok } from '../check.ts';
import { listed, probe } from '../probe.ts';

/** No system call that the init of a sandbox makes is refused by a filter that kiln was started under: tried. */
export const systemCalls: Check = {
  name: 'system-calls',
  async run() {
    const refused = await probe('calls');
    // The init does without where the kernel was built without keys.
    const inTheWay = refused.filter(({ name, errno }) => name !== 'keyctl' || errno !== 'ENOSYS');
    if (inTheWay.length === 0) return ok('every system call of a sandbox’s init gets through');
    return fail(
      `refused: ${listed(inTheWay)}`,
      'the init of a sandbox cannot make it',
      'start kiln without the seccomp filter that forbids this, and with CAP_SYS_ADMIN: podman --privileged, or --security-opt seccomp=unconfined; systemd: SystemCallFilter=',
    );
  },
};
