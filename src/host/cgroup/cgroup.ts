import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** One mounted cgroup hierarchy. */
export interface CgroupHierarchy {
  readonly path: string;
  /**
   * The group that is visible at `path`, relative to this process's cgroup namespace: `/` for the root of the
   * namespace, `/a` below it, `/..` above it (cgroup_namespaces(7)).
   */
  readonly root: string;
  /** 1: a hierarchy of cgroup v1 with its controllers; 2: the unified one. */
  readonly version: 1 | 2;
  /** v1: as mounted (`cpu`, `cpuacct`, `name=systemd`); v2: what cgroup.controllers offers. */
  readonly controllers: readonly string[];
}

/**
 * `unified`: cgroup v2 only. `legacy`: v1 only. `hybrid`: v1 with controllers, and v2 beside it.
 * `none`: nothing mounted.
 */
export type CgroupMode = 'unified' | 'legacy' | 'hybrid' | 'none';

/** Options of a v1 mount that are not names of controllers (cgroups(7)). */
const V1_OPTIONS = new Set(['rw', 'ro', 'clone_children', 'noprefix', 'xattr', 'cpuset_v2_mode']);

/** A field of mountinfo, where blanks, line breaks and backslashes are octal numbers (proc_pid_mountinfo(5)). */
export function unescapeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(Number.parseInt(octal, 8)),
  );
}

/** The cgroup hierarchies in the text of a mountinfo file (proc_pid_mountinfo(5)). */
export function parseCgroupMounts(mountinfo: string): CgroupHierarchy[] {
  const found = new Map<string, CgroupHierarchy>();
  for (const line of mountinfo.split('\n')) {
    // 36 35 98:0 /root /mountpoint rw,noatime shared:1 - type source rw,superoptions
    const [left, right] = line.split(' - ');
    const [, , , root = '/', point = ''] = (left ?? '').split(' ').map(unescapeOctal);
    const path = point;
    const [type, , options] = right?.split(' ') ?? [];
    if (type === 'cgroup2') found.set(path, { path, root, version: 2, controllers: [] });
    if (type !== 'cgroup') continue;
    const controllers = (options ?? '')
      .split(',')
      .filter((option) => !V1_OPTIONS.has(option) && !option.startsWith('release_agent='));
    found.set(path, { path, root, version: 1, controllers });
  }
  return [...found.values()];
}

/** A group's path as a number of steps up from the root of the cgroup namespace, and names down from there. */
function steps(path: string): { readonly up: number; readonly down: readonly string[] } {
  const names = path.split('/').filter((name) => name !== '');
  const up = names.findIndex((name) => name !== '..');
  return up < 0 ? { up: names.length, down: [] } : { up, down: names.slice(up) };
}

/**
 * The path of a group in a mounted hierarchy. Undefined where the mount shows another part of the tree, as in
 * some containers.
 * @param group as /proc/PID/cgroup has it
 */
export function pathOfGroup(
  { path, root }: Pick<CgroupHierarchy, 'path' | 'root'>,
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
    const text = controllersOf(mount.path);
    return { ...mount, controllers: text.split(/\s+/).filter((word) => word !== '') };
  });
}

function controllersOf(path: string): string {
  try {
    return readFileSync(`${path}/cgroup.controllers`, 'utf8');
  } catch {
    return '';
  }
}

let known: readonly CgroupHierarchy[] | undefined;

/**
 * The hierarchies, read once: they do not change while a process lives, and a host's mount table can be long.
 */
export function knownHierarchies(): readonly CgroupHierarchy[] {
  known ??= cgroupHierarchies();
  return known;
}

/** What the mounted hierarchies amount to. */
export function cgroupMode(hierarchies: readonly CgroupHierarchy[]): CgroupMode {
  const v2 = hierarchies.some(({ version }) => version === 2);
  const v1 = hierarchies.some(
    ({ version, controllers }) =>
      version === 1 && controllers.some((controller) => !controller.startsWith('name=')),
  );
  if (v1) return v2 ? 'hybrid' : 'legacy';
  return v2 ? 'unified' : 'none';
}
