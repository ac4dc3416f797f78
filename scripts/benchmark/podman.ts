/** podman, as root calls it, in the comparisons with kiln. */
import { cgroupHierarchies, cgroupMode } from '../../src/host/cgroup/cgroup.ts';

/** Its crun refuses hybrid cgroups (`drop all controllers from cgroupv2`): nothing but v2 is to be seen there. */
const ONLY_V2 = 'umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && ';

/** podman keeps its locks in memory that all podmans of a host share, unless they have another /dev/shm. */
const OWN_LOCKS = 'mount -t tmpfs podman /dev/shm && ';

/**
 * The command line that runs `argv` on the file tree `tree` with podman's defaults, but without a network;
 * on a host with hybrid cgroups without a group, too, since none that is to be seen has controllers. What
 * podman knows of containers is in the folder `state`, apart from that of the host's own podman; its
 * mounts go with a mount namespace.
 */
export function podmanRun(
  state: string,
  tree: string,
  argv: readonly string[],
  options: readonly string[] = [],
): [command: string, ...args: string[]] {
  const hybrid = cgroupMode(cgroupHierarchies()) === 'hybrid';
  const folders = { root: 'root', runroot: 'run', tmpdir: 'tmp' };
  return [
    ...(['unshare', '-m', 'sh', '-c'] as const),
    ...[`${OWN_LOCKS}${hybrid ? ONLY_V2 : ''}exec podman "$@"`, 'podman'],
    ...Object.entries(folders).flatMap(([option, name]) => [`--${option}`, `${state}/${name}`]),
    ...['run', '--rm', '--network', 'none', ...(hybrid ? ['--cgroups=disabled'] : [])],
    ...options,
    ...['--rootfs', tree, ...argv],
  ];
}
