import { type Check, fail, ok } from '../check.ts';
import { listed, probe } from '../probe.ts';

/**
 * A fresh /proc and a fresh /sys can be mounted in namespaces of their own. The kernel refuses that below
 * a /proc of which parts are covered, and beside a /sys that is read-only: containers have both. Tried.
 */
export const procAndSys: Check = {
  name: 'proc-and-sys',
  async run() {
    const refused = await probe('mounts');
    if (refused.length === 0) return ok('a fresh /proc and /sys can be mounted in a sandbox');
    const names = refused.map(({ name }) => name);
    return fail(
      `refused: ${listed(refused)}`,
      'a sandbox cannot have a /proc or /sys of its own: parts of this one are masked or read-only',
      names.includes('proc')
        ? 'start the container with all of /proc and a writable /sys: podman --privileged, or --security-opt unmask=ALL; see docs/containers.md'
        : 'make /sys writable: mount -o remount,rw /sys; in a container podman --privileged; see docs/containers.md',
    );
  },
};
