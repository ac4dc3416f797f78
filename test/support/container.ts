/** Containers of podman's on this host's own files, with an overlay over them. */
import { execa } from 'execa';
import { PATIENCE } from './busybox-state.ts';

/** On v2: the container's processes leave its root group, which else passes no controller on. */
export const LEAVE_ROOT = `if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mkdir /sys/fs/cgroup/init
  for p in $(cat /sys/fs/cgroup/cgroup.procs); do echo $p > /sys/fs/cgroup/init/cgroup.procs; done
  fi`;

interface ContainerRun {
  readonly options: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly script: string;
}

/** Runs a shell script as the first process of a container; `storage` is a folder for podman alone. */
export function runContainer(storage: string, { options, env, script }: ContainerRun) {
  const folders = { root: 'root', runroot: 'run', tmpdir: 'tmp' };
  const podman = [
    ...Object.entries(folders).flatMap(([option, name]) => [`--${option}`, `${storage}/${name}`]),
    ...['--storage-driver', 'vfs', '--runtime', 'runc', 'run', '--rm', '--network', 'none'],
    ...[...options, '--rootfs', '/:O'],
    ...['env', ...Object.entries(env).map(([name, value]) => `${name}=${value}`)],
    ...['sh', '-c', `cd /; ${script}`],
  ];
  // podman's locks are in memory that all podmans of a host share.
  const own = 'mount -t tmpfs podman /dev/shm && exec podman "$@"';
  return execa('unshare', ['-m', 'sh', '-c', own, 'podman', ...podman], {
    reject: false,
    timeout: 180_000 * PATIENCE,
  });
}

/** Removes what {@link runContainer} has left. */
export async function removeStorage(storage: string): Promise<void> {
  await execa('rm', ['-rf', storage]);
  const groups = '/sys/fs/cgroup/*/libpod_parent';
  await execa('sh', ['-c', `rmdir ${groups}/conmon ${groups}`], { reject: false });
}
