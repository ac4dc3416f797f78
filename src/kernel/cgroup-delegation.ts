/**
 * A cgroup that a box has to itself, with everything below it: what systemd in a box needs. It has
 * no controllers, so that limits stay with the group above it, which is the host's.
 * Sources: the kernel's admin-guide/cgroup-v2 ("Delegation"), systemd's CONTAINER_INTERFACE.
 */
import { chownSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../errors.ts';
import { cgroupMode, knownHierarchies, pathOfGroup } from './cgroup.ts';
import { hasErrno } from './libc.ts';

/** The folder, in a v2 hierarchy beside v1's, of the boxes' trees. */
const BESIDE_V1 = 'kiln';

/** Below the box's own group, where v2 is all there is. */
export const DELEGATED_GROUP = 'kiln-boot';

/** What a group's new owner writes to (cgroup-v2, "Model of Delegation"). */
const HANDED_OVER = ['', 'cgroup.procs', 'cgroup.threads', 'cgroup.subtree_control'];

/** How long to wait for killed processes to leave, and how often to look, ms. */
const REMOVE_MS = 2000;
const PAUSE_MS = 10;

/**
 * Moves a process into a new group of the unified hierarchy that `owner` may divide. It must not
 * have its cgroup namespace yet: that begins here. Throws E_NO_CGROUP2.
 */
export function delegateCgroup(pid: number, id: string, owner: number): void {
  const { unified, besideV1 } = unifiedHierarchy();
  if (unified === undefined) {
    throw new KilnError('E_NO_CGROUP2', 'this host has no unified cgroup hierarchy', {
      hint: 'mount it beside the others: mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified',
    });
  }
  const own = besideV1 ? join(unified.path, BESIDE_V1, id) : pathOfGroup(unified, unifiedPath(pid));
  if (own === undefined) {
    throw new KilnError('E_NO_CGROUP2', `the sandbox’s cgroup is not seen below ${unified.path}`, {
      hint: 'in a container: start it with a cgroup namespace of its own (podman: --cgroupns private)',
    });
  }
  const group = besideV1 ? own : join(own, DELEGATED_GROUP);
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

/** Removes the group of a box whose processes are dying; libvirt does it where v2 is all there is. */
export async function removeDelegatedCgroup(id: string): Promise<void> {
  const { unified, besideV1 } = unifiedHierarchy();
  if (unified === undefined || !besideV1) return;
  const parent = join(unified.path, BESIDE_V1);
  for (let left = REMOVE_MS; !removeTree(join(parent, id)); left -= PAUSE_MS) {
    if (left <= 0) throw new KilnError('E_STATE', `${join(parent, id)} is in use`);
    await sleep(PAUSE_MS);
  }
  try {
    rmdirSync(parent);
  } catch (error) {
    // Others are in it, or removed it first.
    if (!hasErrno(error, 'ENOENT', 'EBUSY', 'ENOTEMPTY')) throw error;
  }
}

function unifiedHierarchy() {
  const hierarchies = knownHierarchies();
  const unified = hierarchies.find(({ version }) => version === 2);
  return { unified, besideV1: cgroupMode(hierarchies) === 'hybrid' };
}

function unifiedPath(pid: number): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n');
  return lines.find((line) => line.startsWith('0::'))?.slice('0::'.length) ?? '/';
}

/** False while one of them is busy. */
function removeTree(group: string): boolean {
  try {
    for (const entry of readdirSync(group, { withFileTypes: true })) {
      if (entry.isDirectory() && !removeTree(join(group, entry.name))) return false;
    }
    rmdirSync(group);
    return true;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return true;
    if (hasErrno(error, 'EBUSY')) return false;
    throw error;
  }
}
