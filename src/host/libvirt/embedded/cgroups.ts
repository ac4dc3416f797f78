import { mkdir, readdir, readFile, readlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../../errors.ts';
import { attempt } from '../../calls/libc.ts';
import {
  type CgroupHierarchy,
  cgroupHierarchies,
  cgroupMode,
  processesBelow,
  removeGroups,
} from '../../cgroup/cgroup.ts';
import { until } from '../../process/process.ts';

/** The v1 controllers that libvirt knows (vircgroup.c), and `pids`, by which kiln limits sandboxes itself. */
const V1_SEEN = ['cpu', 'cpuacct', 'cpuset', 'memory', 'devices', 'freezer', 'blkio'];
const V1_JOINED = [...V1_SEEN, 'pids'];

export const V2_CONTROLLERS = ['cpuset', 'cpu', 'io', 'memory', 'pids'];

export const DOMAINS = 'machine';

export interface CgroupHome {
  readonly version: 1 | 2;
  readonly joined: readonly string[];
  readonly seen: readonly CgroupHierarchy[];
}

/**
 * On a hybrid host only v1 is used: libvirt's v2 backend would run first and fail with `Unable to create
 * directory /sys/fs/cgroup/unified`.
 * @param unit under systemd with v2 only: the unit's cgroup, which systemd makes and delegates
 * @throws KilnError E_NO_CGROUPS
 */
export async function cgroupHome(name: string, unit: string | undefined): Promise<CgroupHome> {
  const hierarchies = cgroupHierarchies();
  const mode = cgroupMode(hierarchies);
  if (mode === 'none') {
    throw new KilnError('E_NO_CGROUPS', 'no cgroup hierarchy is mounted', {
      hint: 'mount -t cgroup2 none /sys/fs/cgroup',
    });
  }
  if (mode === 'unified') {
    const root = hierarchies.find(({ version }) => version === 2)?.path ?? '/sys/fs/cgroup';
    return { version: 2, joined: [join(root, unit ?? name)], seen: [] };
  }
  const having = (wanted: readonly string[]): CgroupHierarchy[] =>
    hierarchies.filter(
      ({ version, controllers }) =>
        version === 1 && controllers.some((controller) => wanted.includes(controller)),
    );
  return {
    version: 1,
    joined: having(V1_JOINED).map(({ path }) => join(path, name)),
    seen: having(V1_SEEN),
  };
}

/**
 * Makes what systemd does not make. On v1 that includes the parent of the domains' cgroups: libvirt makes it in
 * several steps, and a domain that starts meanwhile inherits an empty cpuset, which takes no process
 * (virCgroupV1MakeGroup in vircgroupv1.c).
 */
export async function makeHome(home: CgroupHome): Promise<void> {
  for (const path of home.joined) {
    await makeGroup(path);
    if (home.version === 1) {
      const domains = join(path, DOMAINS);
      await inheritCpuset(path);
      await mkdir(domains, { recursive: true });
      await inheritCpuset(domains);
    } else {
      await enableControllers(join(path, '..'));
      await requireMemory(path);
    }
  }
}

async function makeGroup(path: string): Promise<void> {
  try {
    await mkdir(path, { recursive: true });
  } catch (cause) {
    throw new KilnError('E_NO_CGROUPS', `${path}: no cgroup can be made there`, {
      cause,
      hint: 'it is read-only in most containers: podman --privileged, see docs/containers.md; else mount -o remount,rw',
    });
  }
}

/** On v2 libvirt starts no domain without the memory controller, and its own error does not say so. */
async function requireMemory(path: string): Promise<void> {
  const controllers = await readFile(join(path, 'cgroup.controllers'), 'utf8').catch(() => '');
  if (controllers.split(/\s+/).includes('memory')) return;
  throw new KilnError('E_NO_CGROUPS', `${path}: the memory controller is not passed on to it`, {
    hint: '`kiln doctor cgroups` says why, and what mends it',
  });
}

/** A v1 cpuset starts empty and takes no process until it has cpus and memory nodes. */
async function inheritCpuset(path: string): Promise<void> {
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const parent = await readFile(join(path, '..', file), 'utf8').catch(() => undefined);
    if (parent !== undefined) await writeFile(join(path, file), parent);
  }
}

/** One by one, because one refused controller fails the whole write. */
async function enableControllers(path: string): Promise<void> {
  for (const controller of V2_CONTROLLERS) {
    await writeFile(join(path, 'cgroup.subtree_control'), `+${controller}`).catch(() => undefined);
  }
}

/**
 * The `libvirt_lxc` of running domains, as host pids. A sandbox's processes must not pass for one: they are
 * told apart by their user namespace, which they cannot fake.
 */
export async function controllerProcesses(home: CgroupHome): Promise<number[]> {
  const pids = processesIn(home.joined.map((path) => join(path, DOMAINS)));
  const userNamespace = (pid: number | string): Promise<string> =>
    readlink(`/proc/${pid}/ns/user`).catch(() => '');
  const ours = await userNamespace('self');
  const theirs = await Promise.all(pids.map(userNamespace));
  return pids.filter((_, index) => theirs[index] === ours);
}

function processesIn(tops: readonly string[]): number[] {
  return [...new Set(tops.flatMap((path) => processesBelow(path)))];
}

/** vircgroup.c names a domain's cgroup so, without systemd-machined. */
const DOMAIN_GROUP = /^(lxc|qemu)-\d+-(?<domain>.+)\.libvirt-\1$/;

export async function removeDomainGroups(
  home: CgroupHome,
  isOrphan: (domain: string) => boolean,
): Promise<void> {
  for (const parent of home.joined.map((path) => join(path, DOMAINS))) {
    for (const name of await readdir(parent).catch(() => [])) {
      const domain = DOMAIN_GROUP.exec(name)?.groups?.domain;
      if (domain !== undefined && isOrphan(domain)) await removeAll([join(parent, name)]);
    }
  }
}

/** @returns whether all are gone */
async function removeAll(groups: readonly string[]): Promise<boolean> {
  const gone = groups.map((path) => removeGroups(path).catch(() => false));
  return (await Promise.all(gone)).every((isGone) => isGone);
}

export async function homeNames(): Promise<string[]> {
  const lists = cgroupHierarchies().map(({ path }) => readdir(path).catch(() => []));
  return [...new Set((await Promise.all(lists)).flat())];
}

/** Keeps cgroups with a process. */
export async function removeEmptyHome(name: string): Promise<void> {
  const tops = cgroupHierarchies().map(({ path }) => join(path, name));
  if (processesIn(tops).length === 0) await removeAll(tops);
}

export async function clearHome({ joined }: CgroupHome): Promise<boolean> {
  const clear = async () => {
    // One may have ended by itself.
    for (const pid of processesIn(joined)) attempt(() => process.kill(pid, 'SIGKILL'));
    return await removeAll(joined);
  };
  return await until(clear, 5000, 10);
}
