import { open, readFile } from 'node:fs/promises';
import { release } from 'node:os';
import { hasErrno } from '../../host/calls/libc.ts';
import { runTool } from '../../host/process/child-process.ts';
import { landlockAbi } from '../../host/process/process.ts';
import {
  ownLabel,
  type SecurityModule,
  securityModule,
  selinuxEnforces,
} from '../../sandbox/labels/module.ts';
import { isValidContext, policyModule, processContext } from '../../sandbox/labels/selinux.ts';
import { allowedMissing } from '../../sandbox/policy/layers.ts';
import { FIRST_ABI } from '../../sandbox/policy/policy.ts';
import { type Check, type Finding, fail, ok, reason, warn } from '../check.ts';
import { listed, probe } from '../host.ts';

/** mount_setattr with ID maps is from 5.12, overlayfs on an ID-mapped layer from 5.19. */
const OLDEST = [5, 19] as const;

/** Other checks try the kernel's features. */
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
        "a sandbox's system calls cannot be limited, and kiln does not run without that",
        'use a kernel that is built with CONFIG_SECCOMP_FILTER',
      );
    }
    return ok(`Linux ${version}, with seccomp filters`);
  },
};

/** The kernel version of each wall's ABI (landlock(7), VERSIONS). */
const SINCE = { files: 'Linux 5.13', 'no-tcp': 'Linux 6.7', 'abstract-sockets': 'Linux 6.12' };

/** The option that is refused if the kernel's ABI is too old for a wall, unless Landlock may be missing. */
const NEEDED_BY = { 'no-tcp': '--seccomp strict', 'abstract-sockets': '--network host' } as const;

export const landlock: Check = {
  name: 'landlock',
  async run({ env }) {
    return landlockFinding(landlockAbi(), allowedMissing(env).includes('landlock'));
  },
};

/** 0: no Landlock. @param allowed KILN_ALLOW_MISSING names landlock: nothing is refused for want of it */
export function landlockFinding(abi: number, allowed: boolean): Finding {
  if (abi < FIRST_ABI.files) {
    const lost =
      'nothing else stops a command from opening host files that leak into its sandbox, or one with SYS_PTRACE from tracing the init';
    return (allowed ? warn : fail)(
      'the kernel has no Landlock',
      allowed ? lost : `kiln refuses commands: ${lost}`,
      `boot with landlock in lsm= (cat /sys/kernel/security/lsm shows the others), on ${SINCE.files} or newer with CONFIG_SECURITY_LANDLOCK; or do without: KILN_ALLOW_MISSING=landlock`,
    );
  }
  const found = `Landlock, ABI ${abi}`;
  const lost = (['no-tcp', 'abstract-sockets'] as const).filter((wall) => abi < FIRST_ABI[wall]);
  const last = lost.at(-1);
  if (last === undefined) return ok(`${found}: files, TCP, abstract sockets`);
  const uses = lost.map((wall) => NEEDED_BY[wall]).join(', ');
  return warn(
    found,
    allowed
      ? `Landlock does not cover ${uses} (${lost.join(', ')})`
      : `kiln refuses ${uses}: Landlock here lacks ${lost.join(', ')}`,
    `use ${SINCE[last]} or newer; or do without: KILN_ALLOW_MISSING=landlock`,
  );
}

const KINDS = ['user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup'];

/** With fewer user namespaces, ten sandboxes at once may not all start. */
const FEW = 64;

export const namespaces: Check = {
  name: 'namespaces',
  async run() {
    const limits: string[] = [];
    for (const kind of KINDS) {
      const file = `/proc/sys/user/max_${kind}_namespaces`;
      const limit = Number(await readFile(file, 'utf8').catch(() => 'NaN'));
      if (limit < FEW) return tooFew(kind, limit);
      if (kind === 'user') limits.push(`at most ${limit} user namespaces`);
    }
    const flags = KINDS.map((kind) => `--${kind === 'mnt' ? 'mount' : kind}`);
    const made = await runTool('unshare', ['--fork', ...flags, 'true']);
    if (made.failure !== undefined) {
      return fail(
        `unshare: ${reason(made.failure)}`,
        'namespaces cannot be made here',
        'leave the chroot, or the container whose seccomp profile, capabilities or security module forbids it',
      );
    }
    if (await restrictsOthers()) limits.push('root alone may make user namespaces');
    return ok(['all kinds can be made', ...limits].join(', '));
  },
};

/** Ubuntu's and Debian's restrictions for users other than root; kiln runs as root. */
async function restrictsOthers(): Promise<boolean> {
  const value = (name: string) => readFile(`/proc/sys/kernel/${name}`, 'utf8').catch(() => '');
  const apparmor = await value('apparmor_restrict_unprivileged_userns');
  const debian = await value('unprivileged_userns_clone');
  return apparmor.trim() === '1' || debian.trim() === '0';
}

function tooFew(kind: string, limit: number): Finding {
  const name = `user.max_${kind}_namespaces`;
  const found = `${name} is ${limit}`;
  const remedy = `sysctl -w ${name}=100000`;
  if (limit === 0) return fail(found, 'sandboxes cannot be made', remedy);
  const few = `no more than a few sandboxes can run at a time (kiln wants ${FEW})`;
  return warn(found, few, remedy);
}

export const systemCalls: Check = {
  name: 'system-calls',
  async run() {
    const refused = await probe('calls');
    // The init does without keyrings on a kernel built without them.
    const inTheWay = refused.filter(({ name, errno }) => name !== 'keyctl' || errno !== 'ENOSYS');
    if (inTheWay.length === 0) return ok('every system call of a sandbox’s init gets through');
    return fail(
      `refused: ${listed(inTheWay)}`,
      'the init of a sandbox cannot make it',
      'start kiln without the seccomp filter that forbids this, and with CAP_SYS_ADMIN: podman --privileged, or --security-opt seccomp=unconfined; systemd: SystemCallFilter=',
    );
  },
};

/** The kernel refuses them below a /proc with covered parts, and beside a read-only /sys, as in containers. */
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

/** libvirt uses it to show each container a /proc/meminfo of its own. */
const FUSE = '/dev/fuse';

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

export const securityModules: Check = {
  name: 'security-modules',
  async run() {
    const module = securityModule();
    if (module === undefined) return ok('neither SELinux nor AppArmor: sandboxes have no label');
    const own = ownLabel(module) ?? 'unknown';
    return module === 'selinux' ? selinux(own) : await apparmor(module, own);
  },
};

function selinux(own: string): Finding {
  const found = `SELinux, ${selinuxEnforces() ? 'enforcing' : 'permissive'}; kiln is ${own}`;
  if (!isValidContext(processContext('init', 'c0,c1'))) {
    return fail(
      `${found}; no policy module of kiln`,
      'sandboxes are refused',
      `semodule -i ${policyModule()}`,
    );
  }
  if (!selinuxEnforces()) {
    return warn(
      `${found}; kiln’s policy module is loaded`,
      'what a label does not allow is only logged',
      'setenforce 1, and SELINUX=enforcing in /etc/selinux/config',
    );
  }
  return ok(`${found}; kiln’s policy module is loaded`);
}

async function apparmor(module: SecurityModule, own: string): Promise<Finding> {
  if (own !== 'unconfined') {
    return warn(
      `AppArmor, kiln runs under the profile ${own}`,
      'a profile may forbid mounts and namespaces',
      'run kiln outside of that profile',
    );
  }
  const parser = await runTool('apparmor_parser', ['--version']);
  const version = /version ([\d.]+)/.exec(parser.stdout)?.[1];
  if (version !== undefined) return ok(`AppArmor, kiln unconfined; apparmor_parser ${version}`);
  return fail(
    `${module}, but no apparmor_parser`,
    'kiln’s profiles cannot be loaded, and without --label none sandboxes are refused',
    'install the package apparmor',
  );
}
