/** podman, as root calls it, in the comparisons with kiln. */
import { cgroupHierarchies, cgroupMode } from '../src/kernel/cgroup.ts';

/**
 * Its crun refuses hybrid cgroups (`drop all controllers from cgroupv2`): there it gets a mount
 * namespace in which nothing but cgroup v2 is to be seen, and makes no group.
 */
const ONLY_V2 =
  'umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec podman "$@"';

/**
 * The command line that runs `argv` on the file tree `tree` with podman's defaults, but without a network.
 * What podman keeps of containers is in the folder `state`.
 */
export function podmanRun(
  state: string,
  tree: string,
  argv: readonly string[],
  options: readonly string[] = [],
): [command: string, ...args: string[]] {
  const hybrid = cgroupMode(cgroupHierarchies()) === 'hybrid';
  const podman = ['--root', `${state}/root`, '--runroot', `${state}/run`];
  const run = ['run', '--rm', '--network', 'none', ...(hybrid ? ['--cgroups=disabled'] : [])];
  const all = [...podman, ...run, ...options, '--rootfs', tree, ...argv];
  return hybrid ? ['unshare', '-m', 'sh', '-c', ONLY_V2, 'podman', ...all] : ['podman', ...all];
}
