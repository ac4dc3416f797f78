import { mkdir, readFile, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type CgroupHierarchy,
  type CgroupMode,
  cgroupHierarchies,
  cgroupMode,
} from '../../host/cgroup/cgroup.ts';
import { namesLibvirt } from '../../host/libvirt/pick-engine.ts';
import { hasSystemd } from '../../host/process/process.ts';
import { type Check, type CheckContext, type Finding, fail, ok, reason, warn } from '../check.ts';

/** The controllers behind kiln's limits; cgroup v1 calls io `blkio`. */
const LIMITS: Readonly<Record<string, string>> = {
  memory: '--memory',
  cpu: '--cpus',
  pids: '--pids',
  io: '--io-read, --io-write',
};

/** libvirt's LXC driver refuses to start a domain without these on cgroup v1 (vircgroup.c). */
const V1_MUST = ['cpuacct', 'devices', 'memory'];

const V2_MUST = ['memory'];

export const cgroups: Check = {
  name: 'cgroups',
  async run(context) {
    const hierarchies = cgroupHierarchies();
    const mode = cgroupMode(hierarchies);
    if (mode === 'none') {
      return fail(
        'no cgroup hierarchy is mounted',
        'libvirt cannot start a sandbox',
        'mount -t cgroup2 none /sys/fs/cgroup',
      );
    }
    const used = hierarchies.filter(({ version }) => (version === 2) === (mode === 'unified'));
    const controllers = used.flatMap((hierarchy) => hierarchy.controllers);
    const favors = (await favorsMoves())
      ? '; favordynmods: processes are moved between cgroups without a wait'
      : '';
    const found = `${describe(mode)}: ${controllers.filter((name) => !name.includes('=')).join(' ')}${favors}`;
    return (
      (await unwritable(used, found)) ??
      wrongMode(mode, controllers, found, context) ??
      (mode === 'unified' ? await notPassedOn(used[0], found) : undefined) ??
      missingLimits(controllers, found) ??
      ok(found)
    );
  },
};

function describe(mode: CgroupMode): string {
  if (mode === 'unified') return 'v2';
  return mode === 'hybrid' ? 'hybrid (v1 controllers, v2 beside them)' : 'v1';
}

/** The kernel's switch for all cgroup mounts of a kind: docs/performance.md. */
async function favorsMoves(): Promise<boolean> {
  const mounts = await readFile('/proc/self/mounts', 'utf8');
  return mounts.split('\n').some((line) => /^\S+ \S+ cgroup2? \S*\bfavordynmods\b/.test(line));
}

async function unwritable(
  hierarchies: readonly CgroupHierarchy[],
  found: string,
): Promise<Finding | undefined> {
  for (const { path, controllers } of hierarchies) {
    if (controllers.some((name) => name.includes('='))) continue;
    const trial = join(path, `kiln-doctor-${process.pid}`);
    try {
      await mkdir(trial);
      await rmdir(trial);
    } catch (error) {
      return fail(
        found,
        `no cgroup can be made in ${path}: ${reason(error)}`,
        `mount -o remount,rw ${path}; in a container: podman --privileged, see docs/containers.md`,
      );
    }
  }
  return undefined;
}

function wrongMode(
  mode: CgroupMode,
  controllers: readonly string[],
  found: string,
  { env }: CheckContext,
): Finding | undefined {
  if (mode === 'unified') {
    const lacking = V2_MUST.filter((name) => !controllers.includes(name));
    if (lacking.length === 0) return undefined;
    return fail(
      found,
      `libvirt starts no sandbox without the controller ${lacking.join(', ')}`,
      'boot with cgroup_enable=memory; in a container: enable it in cgroup.subtree_control of the groups above',
    );
  }
  const missing = V1_MUST.filter((name) => !controllers.includes(name));
  if (missing.length > 0) {
    return fail(
      found,
      `libvirt needs the v1 controllers ${missing.join(', ')}, and they are not mounted`,
      `mkdir -p /sys/fs/cgroup/${missing[0]} && mount -t cgroup -o ${missing[0]} cgroup /sys/fs/cgroup/${missing[0]}`,
    );
  }
  if (mode === 'hybrid' && namesLibvirt(env)) {
    return fail(
      found,
      'on a hybrid host a system libvirtd starts no container (“Unable to create directory /sys/fs/cgroup/unified”)',
      'unset KILN_URI: the embedded libvirtd hides the v2 hierarchy from itself',
    );
  }
  return undefined;
}

/**
 * A group with processes of its own passes no controller on (cgroup-v2, “No Internal Process Constraint”),
 * such as the root that a container with a cgroup namespace sees. The root of the whole tree, which has no
 * cgroup.type, does.
 */
async function notPassedOn(
  hierarchy: CgroupHierarchy | undefined,
  found: string,
): Promise<Finding | undefined> {
  if (hierarchy === undefined || hasSystemd()) return undefined;
  const { path } = hierarchy;
  const read = (name: string) => readFile(join(path, name), 'utf8').catch(() => undefined);
  if ((await read('cgroup.type')) === undefined) return undefined;
  const passed = ((await read('cgroup.subtree_control')) ?? '').split(/\s+/);
  if (V2_MUST.every((name) => passed.includes(name))) return undefined;
  if (((await read('cgroup.procs')) ?? '').trim() === '') return undefined;
  return fail(
    found,
    `${path} has processes of its own, and so passes no controller on to sandboxes`,
    `move them before kiln starts: mkdir ${path}/init && for p in $(cat ${path}/cgroup.procs); do echo $p > ${path}/init/cgroup.procs; done`,
  );
}

function missingLimits(controllers: readonly string[], found: string): Finding | undefined {
  const missing = Object.keys(LIMITS).filter(
    (name) => !controllers.includes(name) && !(name === 'io' && controllers.includes('blkio')),
  );
  if (missing.length === 0) return undefined;
  return warn(
    found,
    `without ${missing.join(', ')} there is no ${missing.map((name) => LIMITS[name]).join(', no ')}`,
    `boot with cgroup_enable=${missing[0]}, or enable it in cgroup.subtree_control of the parent`,
  );
}
