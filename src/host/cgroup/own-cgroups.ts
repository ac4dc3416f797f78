/**
 * The cgroups that kiln makes where libvirt makes none: one for each sandbox, below a parent of kiln's.
 * Sources: the kernel's admin-guide/cgroup-v1/pids and cgroup-v2 ("Delegation"), systemd's CONTAINER_INTERFACE.
 */
import { chownSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { hasErrno } from '../calls/libc.ts';
import { cgroupMode, knownHierarchies, pathOfGroup } from './cgroup.ts';

/** The parent of all these groups, in v1's pids hierarchy and in the v2 hierarchy beside it. */
const PARENT = 'kiln';

/** On a host with v2 only: the group below the sandbox's own that the sandbox's systemd divides. */
export const DELEGATED_GROUP = 'kiln-boot';

/** What a group's new owner writes to (cgroup-v2, "Model of Delegation"). */
const HANDED_OVER = ['', 'cgroup.procs', 'cgroup.threads', 'cgroup.subtree_control'];

/** How long to wait for killed processes to leave, and how often to look, ms. */
const REMOVE_MS = 2000;
const PAUSE_MS = 10;

/** The group for `id`, in the v1 pids hierarchy that is mounted at `hierarchy`. */
export function pidsGroup(hierarchy: string, id: string): string {
  return join(hierarchy, PARENT, id);
}

/** Makes a group and its parent. Another process may remove the empty parent meanwhile. */
export function makePidsGroup(path: string): void {
  for (let attempt = 1; ; attempt++) {
    try {
      mkdirSync(path, { recursive: true });
      return;
    } catch (error) {
      if (!hasErrno(error, 'ENOENT') || attempt === 10) throw error;
    }
  }
}

/**
 * Moves a process into a new group of the unified hierarchy that `owner` may divide, for systemd in a sandbox.
 * The group has no controllers: limits stay on the group above it. Call it before the process makes its cgroup
 * namespace, so that the namespace begins at this group. Throws E_NO_CGROUP2.
 */
export function delegateCgroup(pid: number, id: string, owner: number): void {
  const hierarchies = knownHierarchies();
  const unified = hierarchies.find(({ version }) => version === 2);
  const hybrid = cgroupMode(hierarchies) === 'hybrid';
  if (unified === undefined) {
    throw new KilnError('E_NO_CGROUP2', 'this host has no unified cgroup hierarchy', {
      hint: 'mount it beside the others: mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified',
    });
  }
  const own = hybrid ? join(unified.path, PARENT, id) : pathOfGroup(unified, unifiedPath(pid));
  if (own === undefined) {
    throw new KilnError('E_NO_CGROUP2', `the sandbox’s cgroup is not seen below ${unified.path}`, {
      hint: 'in a container: start it with a cgroup namespace of its own (podman: --cgroupns private)',
    });
  }
  const group = hybrid ? own : join(own, DELEGATED_GROUP);
  try {
    mkdirSync(group, { recursive: true });
    for (const name of HANDED_OVER) chownSync(join(group, name), owner, owner);
    writeFileSync(join(group, 'cgroup.procs'), String(pid));
  } catch (cause) {
    throw new KilnError('E_NO_CGROUP2', `no cgroup can be made for the sandbox: ${group}`, {
      cause,
      hint: 'is it mounted read-only, as in a container?',
    });
  }
}

/**
 * Removes the groups of `id`, and their parents if those are empty. Missing groups are fine. The processes in
 * them must be dying.
 */
export async function removeOwnCgroups(id: string): Promise<void> {
  const hierarchies = knownHierarchies();
  const hybrid = cgroupMode(hierarchies) === 'hybrid';
  for (const { path, version, controllers } of hierarchies) {
    if (version === 1 ? !controllers.includes('pids') : !hybrid) continue;
    const parent = join(path, PARENT);
    for (let left = REMOVE_MS; !removeGroups(join(parent, id)); left -= PAUSE_MS) {
      if (left <= 0) throw new KilnError('E_STATE', `${join(parent, id)} is in use`);
      await sleep(PAUSE_MS);
    }
    try {
      rmdirSync(parent);
    } catch (error) {
      // The parent is in use, or another process removed it first.
      if (!hasErrno(error, 'ENOENT', 'EBUSY', 'ENOTEMPTY')) throw error;
    }
  }
}

function unifiedPath(pid: number): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n');
  return lines.find((line) => line.startsWith('0::'))?.slice('0::'.length) ?? '/';
}

/** False while a group is still busy. */
function removeGroups(group: string): boolean {
  try {
    for (const entry of readdirSync(group, { withFileTypes: true })) {
      if (entry.isDirectory() && !removeGroups(join(group, entry.name))) return false;
    }
    rmdirSync(group);
    return true;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return true;
    if (hasErrno(error, 'EBUSY')) return false;
    throw error;
  }
}
