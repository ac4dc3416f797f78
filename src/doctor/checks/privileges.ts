import { readFile } from 'node:fs/promises';
import { hasProc } from '../../kernel/process.ts';
import { type Check, fail, ok } from '../check.ts';

/**
 * Bits of the effective capability set (linux/capability.h) without which no box can be made, and
 * which a container or a unit with a bounding set may lack even for uid 0: found by taking them away one
 * by one (test/e2e/containers.test.ts).
 */
const NEEDED: Readonly<Record<string, number>> = {
  CHOWN: 0,
  DAC_OVERRIDE: 1,
  FOWNER: 3,
  SETGID: 6,
  SETUID: 7,
  SETPCAP: 8,
  SYS_PTRACE: 19,
  SYS_ADMIN: 21,
  MKNOD: 27,
};

/** What mends a missing /proc. */
export const MOUNT_PROC = 'mount -t proc proc /proc';

/** Root, with what makes root root: libvirt's LXC driver and ID-mapped mounts need it. */
export const privileges: Check = {
  name: 'privileges',
  async run() {
    if (!hasProc())
      return fail('/proc is not mounted', 'kiln cannot look at processes', MOUNT_PROC);
    const status = await readFile('/proc/self/status', 'utf8');
    const uid = process.geteuid?.() ?? -1;
    if (uid !== 0) {
      return fail(
        `effective uid ${uid}`,
        "libvirt's LXC driver and ID-mapped mounts need root",
        'run kiln as root, for example with sudo',
      );
    }
    const map = await readFile('/proc/self/uid_map', 'utf8');
    if (!/^\s*0\s+0\s+4294967295\s*$/.test(map)) {
      return fail(
        'root of a user namespace',
        "this root is not the host's: libvirt and ID-mapped mounts need that one",
        'run kiln outside of the rootless container or `unshare --user` that this is',
      );
    }
    const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
    const missing = Object.entries(NEEDED)
      .filter(([, bit]) => (effective & (1n << BigInt(bit))) === 0n)
      .map(([name]) => name);
    if (missing.length === 0) return ok('root with all capabilities that kiln needs');
    return fail(
      `root without ${missing.join(', ')}`,
      'this root is confined: boxes cannot be made',
      'start the container or unit with these capabilities: podman --privileged, or see docs/containers.md',
    );
  },
};
