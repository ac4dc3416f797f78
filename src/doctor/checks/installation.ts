import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { runTool } from '../../host/process/child-process.ts';
import { hasProc } from '../../host/process/process.ts';
import { packageRoot } from '../../host/state/paths.ts';
import { verifyRepomd } from '../../packages/repository/trust/verify-repomd.ts';
import { type Check, fail, ok, reason } from '../check.ts';
import { initPath } from '../host.ts';

/**
 * Bits of the effective capability set (linux/capability.h) without which no sandbox can be made. A container,
 * or a unit with a bounding set, may lack them even for uid 0. They were found by removing them one by one
 * (test/e2e/containers.test.ts).
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

/** The command that mounts /proc. */
export const MOUNT_PROC = 'mount -t proc proc /proc';

/** Checks for root and root's capabilities: libvirt's LXC driver and ID-mapped mounts need them. */
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
      'this root is confined: sandboxes cannot be made',
      'start the container or unit with these capabilities: podman --privileged, or see docs/containers.md',
    );
  },
};

/** Checks for the host's programs and libraries that kiln uses. */
export const packages: Check = {
  name: 'packages',
  async run({ host }) {
    const missing = await host.missing(['run']);
    if (missing.length === 0) return ok(`${host.name}: nothing is missing`);
    const names = missing.map((need) => need.package).filter((name) => name !== undefined);
    return fail(
      `${host.name}: no ${missing.map(({ what }) => what).join(', ')}`,
      'kiln needs them',
      host.install([...new Set(names)]),
    );
  },
};

/** Checks that the init of every sandbox is compiled, and static. */
export const guestInit: Check = {
  name: 'guest-init',
  async run({ host }) {
    const path = initPath();
    const file = await stat(path).catch(() => undefined);
    const missing = await host.missing(['build']);
    const names = missing.map((need) => need.package).filter((name) => name !== undefined);
    const compile = `${join(packageRoot(), 'scripts/quickstart')}, or npm run build`;
    const mend =
      names.length === 0 ? compile : `${host.install([...new Set(names)])} && npm run build`;
    if (file === undefined) return fail(`no ${path}`, 'no sandbox can start', mend);
    // The dynamic linker refuses to list the libraries of a static program: that is the good case.
    const { failure, stdout } = await runTool('ldd', [path]);
    if (failure === undefined && !/statically linked/.test(stdout)) {
      return fail(`${path} needs libraries`, 'it cannot run on the empty root of a sandbox', mend);
    }
    return ok(`${path}, ${Math.round(file.size / 1024)} KiB`);
  },
};

/** Checks that rpm's library, which judges signatures, works in a confined child. */
export const signatures: Check = {
  name: 'signatures',
  async run() {
    try {
      await verifyRepomd('of the doctor', Buffer.alloc(0), Buffer.from('no signature'), []);
    } catch (error) {
      // A KilnError means that the library recognised the invalid signature.
      const isKiln = error instanceof KilnError;
      if (isKiln && error.code === 'E_REPOSITORY_SIGNATURE') return ok('rpm’s library judges them');
      const mend = (isKiln ? error.hint : undefined) ?? 'see the checks above';
      return fail(reason(error), 'no package can be verified, so no image can be made', mend);
    }
    return fail(
      'rpm’s library accepted data that is not a signature',
      'forged packages pass',
      'report it',
    );
  },
};
