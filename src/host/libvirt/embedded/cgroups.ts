import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, readlink, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../../errors.ts';
import { type CgroupHierarchy, cgroupHierarchies, cgroupMode } from '../../cgroup/cgroup.ts';

/**
 * The v1 controllers that libvirt knows (vircgroup.c) and the daemon sees mounted, and `pids`, which libvirt
 * does not know: kiln limits sandboxes in the daemon's pids cgroup.
 */
const V1_SEEN = ['cpu', 'cpuacct', 'cpuset', 'memory', 'devices', 'freezer', 'blkio'];
const V1_JOINED = [...V1_SEEN, 'pids'];

/** The controllers that domains get where v2 offers them. */
export const V2_CONTROLLERS = ['cpuset', 'cpu', 'io', 'memory', 'pids'];

/** libvirt's default partition: the parent of the cgroups of all domains, below the daemon's root. */
export const DOMAINS = 'machine';

/** Where the daemon and its domains sit in the cgroup hierarchies; host paths. */
export interface CgroupHome {
  readonly version: 1 | 2;
  /** The daemon's cgroup in each hierarchy: the root of what the daemon and its domains see. */
  readonly joined: readonly string[];
  /** v1 only: the mounts that the daemon sees, without `unified` and `name=systemd`. */
  readonly seen: readonly CgroupHierarchy[];
}

/**
 * The cgroups for the daemon called `name`.
 *
 * On a hybrid host only the v1 hierarchies are used: libvirt's v2 backend would run first and fail
 * with `Unable to create directory /sys/fs/cgroup/unified`.
 *
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
 * Makes the cgroups that systemd does not make. On v1 that includes the parent of the domains' cgroups: libvirt
 * makes the parent in several steps, and a domain that starts meanwhile inherits an empty cpuset, which takes
 * no process (vircgroupv1.c, virCgroupV1MakeGroup).
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

/** Passes on the available v2 controllers one by one, because one refused controller fails the whole write. */
async function enableControllers(path: string): Promise<void> {
  for (const controller of V2_CONTROLLERS) {
    await writeFile(join(path, 'cgroup.subtree_control'), `+${controller}`).catch(() => undefined);
  }
}

/** The cgroups below `path` and itself, deepest first; empty where it does not exist. */
async function subtree(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  const below = await Promise.all(
    entries.filter((entry) => entry.isDirectory()).map(({ name }) => subtree(join(path, name))),
  );
  return [...below.flat(), path];
}

/**
 * The controllers (`libvirt_lxc`) of running domains, as host pids. Processes inside a sandbox are told apart
 * by their user namespace, which they cannot fake; they must not pass for a controller.
 */
export async function controllerProcesses(home: CgroupHome): Promise<number[]> {
  const pids = await processesBelow(home.joined.map((path) => join(path, DOMAINS)));
  const userNamespace = (pid: number | string): Promise<string> =>
    readlink(`/proc/${pid}/ns/user`).catch(() => '');
  const ours = await userNamespace('self');
  const theirs = await Promise.all(pids.map(userNamespace));
  return pids.filter((_, index) => theirs[index] === ours);
}

async function processesBelow(tops: readonly string[]): Promise<number[]> {
  const groups = (await Promise.all(tops.map(subtree))).flat();
  const lists = await Promise.all(
    groups.map((path) => readFile(join(path, 'cgroup.procs'), 'utf8').catch(() => '')),
  );
  const pids = lists.flatMap((text) => text.split('\n').filter((line) => line !== ''));
  return [...new Set(pids.map(Number))];
}

/** How libvirt names the cgroup of a domain without systemd-machined: vircgroup.c. */
const DOMAIN_GROUP = /^lxc-\d+-(.+)\.libvirt-lxc$/;

/**
 * Removes the empty cgroups of domains that do not exist. libvirtd leaves them behind when a controller is
 * killed. The kernel refuses to remove a cgroup with a process in it.
 */
export async function removeDomainGroups(
  home: CgroupHome,
  exists: (domain: string) => Promise<boolean>,
): Promise<void> {
  for (const parent of home.joined.map((path) => join(path, DOMAINS))) {
    for (const name of await readdir(parent).catch(() => [])) {
      const domain = DOMAIN_GROUP.exec(name)?.[1];
      if (domain === undefined || (await exists(domain))) continue;
      for (const path of await subtree(join(parent, name))) {
        await rmdir(path).catch(() => undefined);
      }
    }
  }
}

/** The folders at the top of the hierarchies that daemons may be in. */
export async function homeNames(): Promise<string[]> {
  const lists = cgroupHierarchies().map(({ path }) => readdir(path).catch(() => []));
  return [...new Set((await Promise.all(lists)).flat())];
}

/** Removes a daemon's cgroups in every hierarchy unless one has a process in it. True if they are gone. */
export async function removeEmptyHome(name: string): Promise<boolean> {
  const tops = cgroupHierarchies().map(({ path }) => join(path, name));
  if ((await processesBelow(tops)).length > 0) return false;
  const groups = (await Promise.all(tops.map(subtree))).flat();
  for (const path of groups) await rmdir(path).catch(() => undefined);
  return tops.every((path) => !existsSync(path));
}

/**
 * Kills whatever is left in the cgroups and removes them.
 * @returns false where something in them could not be killed within five seconds
 */
export async function clearHome(home: CgroupHome): Promise<boolean> {
  const until = performance.now() + 5000;
  for (let pause = 1; ; pause = Math.min(pause * 2, 50)) {
    for (const pid of await processesBelow(home.joined)) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // The process ended by itself.
      }
    }
    const paths = (await Promise.all(home.joined.map(subtree))).flat();
    for (const path of paths) await rmdir(path).catch(() => undefined);
    const left = (
      await Promise.all(home.joined.map((path) => readdir(path).catch(() => [])))
    ).flat();
    if (left.length === 0) return true;
    if (performance.now() > until) return false;
    await sleep(pause);
  }
}
