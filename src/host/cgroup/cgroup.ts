import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { KilnError } from '../../errors.ts';
import { attempt, hasErrno, readText, unlessErrno } from '../calls/libc.ts';
import { until } from '../process/process.ts';

export interface CgroupHierarchy {
  readonly path: string;
  /**
   * The group at `path`, seen from this process's cgroup namespace: `/` for its root, `/a` below, `/..` above
   * it (cgroup_namespaces(7)).
   */
  readonly root: string;
  readonly version: 1 | 2;
  /** v1: as mounted (`cpu`, `cpuacct`, `name=systemd`); v2: what cgroup.controllers offers. */
  readonly controllers: readonly string[];
}

/** `hybrid`: v1 with controllers, and v2 beside it. `none`: nothing mounted. */
export type CgroupMode = 'unified' | 'legacy' | 'hybrid' | 'none';

const V1_OPTIONS = new Set([
  ...['rw', 'ro', 'clone_children', 'noprefix', 'xattr', 'cpuset_v2_mode', 'favordynmods'],
]);

/** A line of mountinfo: blanks, line breaks and backslashes are octal numbers (proc_pid_mountinfo(5)). */
export function parseMount(line: string) {
  // 36 35 98:0 /root /mountpoint rw,noatime shared:1 - type source rw,superoptions
  const [left = '', right = ''] = line.split(' - ');
  const [, , device = '', root = '/', path = '', own = ''] = left.split(' ').map(unescapeOctal);
  const [type = '', , superOptions = ''] = right.split(' ');
  return {
    device,
    root,
    path,
    type,
    options: own.split(','),
    superOptions: superOptions.split(','),
  };
}

function unescapeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

export function parseCgroupMounts(mountinfo: string): CgroupHierarchy[] {
  const found = new Map<string, CgroupHierarchy>();
  for (const line of mountinfo.split('\n')) {
    const { path, root, type, superOptions } = parseMount(line);
    if (type === 'cgroup2') found.set(path, { path, root, version: 2, controllers: [] });
    if (type !== 'cgroup') continue;
    const controllers = superOptions.filter(
      (option) => !V1_OPTIONS.has(option) && !option.startsWith('release_agent='),
    );
    found.set(path, { path, root, version: 1, controllers });
  }
  return [...found.values()];
}

function steps(path: string): { readonly up: number; readonly down: readonly string[] } {
  const names = path.split('/').filter((name) => name !== '');
  const up = names.findIndex((name) => name !== '..');
  return up < 0 ? { up: names.length, down: [] } : { up, down: names.slice(up) };
}

export function pathOfGroup(
  { path, root }: { readonly path: string; readonly root: string },
  group: string,
): string | undefined {
  const [top, wanted] = [steps(root), steps(group)];
  // The names between the two paths are known only if both begin at the same ancestor.
  if (top.up !== wanted.up) return undefined;
  if (!top.down.every((name, index) => wanted.down[index] === name)) return undefined;
  return join(path, ...wanted.down.slice(top.down.length));
}

export function cgroupHierarchies(): CgroupHierarchy[] {
  const mounts = parseCgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8'));
  return mounts.map((mount) => {
    if (mount.version === 1) return mount;
    const text = readText(`${mount.path}/cgroup.controllers`) ?? '';
    return { ...mount, controllers: text.split(/\s+/).filter((word) => word !== '') };
  });
}

let known: readonly CgroupHierarchy[] | undefined;

/** Read once: they do not change, and a host's mount table can be long. */
export function knownHierarchies(): readonly CgroupHierarchy[] {
  known ??= cgroupHierarchies();
  return known;
}

/** Those that have one of these controllers. */
export function hierarchiesOf(controllers: readonly string[]): readonly CgroupHierarchy[] {
  return knownHierarchies().filter((known) =>
    controllers.some((controller) => known.controllers.includes(controller)),
  );
}

export function cgroupMode(hierarchies: readonly CgroupHierarchy[]): CgroupMode {
  const v2 = hierarchies.some(({ version }) => version === 2);
  const v1 = hierarchies.some(
    ({ version, controllers }) =>
      version === 1 && controllers.some((controller) => !controller.startsWith('name=')),
  );
  if (v1) return v2 ? 'hybrid' : 'legacy';
  return v2 ? 'unified' : 'none';
}

/*
 * Cgroups that kiln makes where libvirt makes none, one for each sandbox (and see work-group.ts). Sources: the kernel's
 * admin-guide/cgroup-v1/pids and cgroup-v2 ("Delegation"), systemd's CONTAINER_INTERFACE.
 */

const PARENT = 'kiln';

/** On hosts with v2 only: the group below the sandbox's own that the sandbox's systemd divides. */
export const DELEGATED_GROUP = 'kiln-boot';

/** What a group's new owner writes to (cgroup-v2, "Model of Delegation"). */
const HANDED_OVER = ['', 'cgroup.procs', 'cgroup.threads', 'cgroup.subtree_control'];

/** The most groups below: each takes some 10 KiB of the kernel's memory, which is in no limit. */
const DESCENDANTS = 4096;

/** Milliseconds that killed processes may take to leave. */
const REMOVE_MS = 2000;
const PAUSE_MS = 10;

/** @param name a sandbox's domain's, or a user's work's: both have the state in them; without it, the one of all */
export function kilnGroup(hierarchy: string, name = ''): string {
  return join(hierarchy, PARENT, name);
}

/** On v2, for the groups of kiln's. Without a controller its limit cannot be set, and that is reported. */
export function passControllersOn(hierarchy: string, controllers: readonly string[]): void {
  for (const parent of [hierarchy, kilnGroup(hierarchy)]) {
    for (const name of controllers) {
      attempt(() => writeFileSync(join(parent, 'cgroup.subtree_control'), `+${name}`));
    }
  }
}

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
 * It has no controllers: limits stay on the group above. The process makes its cgroup namespace afterwards, so
 * that this begins there. @throws KilnError E_NO_CGROUP2
 */
export function delegateCgroup(pid: number, name: string, owner: number): void {
  const hierarchies = knownHierarchies();
  const unified = hierarchies.find(({ version }) => version === 2);
  const hybrid = cgroupMode(hierarchies) === 'hybrid';
  if (unified === undefined) {
    throw new KilnError('E_NO_CGROUP2', 'this host has no unified cgroup hierarchy', {
      hint: 'mount it beside the others: mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified',
    });
  }
  const own = hybrid ? kilnGroup(unified.path, name) : pathOfGroup(unified, unifiedPath(pid));
  if (own === undefined) {
    throw new KilnError('E_NO_CGROUP2', `the sandbox’s cgroup is not seen below ${unified.path}`, {
      hint: 'in a container: start it with a cgroup namespace of its own (podman: --cgroupns private)',
    });
  }
  const group = hybrid ? own : join(own, DELEGATED_GROUP);
  try {
    mkdirSync(group, { recursive: true });
    writeFileSync(join(group, 'cgroup.max.descendants'), String(DESCENDANTS));
    for (const name of HANDED_OVER) chownSync(join(group, name), owner, owner);
    writeFileSync(join(group, 'cgroup.procs'), String(pid));
  } catch (cause) {
    throw new KilnError('E_NO_CGROUP2', `no cgroup can be made for the sandbox: ${group}`, {
      cause,
      hint: 'is it mounted read-only, as in a container?',
    });
  }
}

/** Moves a process into this one's group of the unified hierarchy, and back when `work` is done. */
export async function inOwnGroup(pid: number, work: () => Promise<unknown>): Promise<void> {
  const unified = knownHierarchies().find(({ version }) => version === 2);
  const [own, former] = [process.pid, pid].map((each) =>
    unified === undefined ? undefined : pathOfGroup(unified, unifiedPath(each)),
  );
  if (own === undefined || former === undefined) {
    throw new KilnError('E_NO_CGROUP2', `the cgroup of process ${pid} is not seen`);
  }
  const move = (group: string) => writeFile(join(group, 'cgroup.procs'), String(pid));
  await move(own);
  try {
    await work();
  } finally {
    await move(former);
  }
}

/** Removes the groups of that name, whose processes must be dying, and parents that are empty. Missing ones are fine. */
export async function removeOwnCgroups(name: string): Promise<void> {
  for (const { path } of knownHierarchies()) {
    // A hierarchy may be mounted read-only, where kiln has nothing.
    if (!existsSync(kilnGroup(path))) continue;
    const group = kilnGroup(path, name);
    if (!(await until(() => removeGroups(group), REMOVE_MS, PAUSE_MS)))
      throw new KilnError('E_STATE', `${group} is in use`);
    unlessErrno(['ENOENT', 'EBUSY', 'ENOTEMPTY'], () => rmdirSync(kilnGroup(path)));
  }
}

/** Its group of the unified hierarchy. */
export function unifiedPath(pid: number): string {
  const lines = readFileSync(`/proc/${pid}/cgroup`, 'utf8').split('\n');
  return lines.find((line) => line.startsWith('0::'))?.slice('0::'.length) ?? '/';
}

/** How many groups may lie in each other where processes are looked for. */
const GROUPS_DEEP = 16;

/** Of a group, and of those below. */
export function processesBelow(path: string, deep = GROUPS_DEEP): number[] {
  const text = attempt(() => readText(join(path, 'cgroup.procs'))) ?? '';
  const below = deep === 0 ? [] : (attempt(() => readdirSync(path, { withFileTypes: true })) ?? []);
  const groups = below.filter((entry) => entry.isDirectory());
  return [
    ...(text.match(/\d+/g) ?? []).map(Number),
    ...groups.flatMap(({ name }) => processesBelow(join(path, name), deep - 1)),
  ];
}

/** Removes a group and those below, as far as no process is in them. @returns whether all are gone */
export async function removeGroups(group: string): Promise<boolean> {
  try {
    for (const entry of readdirSync(group, { withFileTypes: true })) {
      if (entry.isDirectory() && !(await removeGroups(join(group, entry.name)))) return false;
    }
    // Not in this thread: the kernel waits for other processors.
    await rmdir(group);
    return true;
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return true;
    if (hasErrno(error, 'EBUSY')) return false;
    throw error;
  }
}
