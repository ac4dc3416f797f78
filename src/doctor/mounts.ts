import { open, readFile } from 'node:fs/promises';
import { unescapeOctal } from '../kernel/cgroup.ts';

/** The mount that a path is on. */
export interface MountPoint {
  readonly path: string;
  /** The file system, as in /proc/filesystems. */
  readonly type: string;
  /** The mount's own options and the file system's: `rw`, `noexec`, … */
  readonly options: readonly string[];
}

/**
 * The mount that `path` is on, also where several are stacked on one mount point: the kernel tells
 * the mount of an open descriptor by its id (proc_pid_fdinfo(5), proc_pid_mountinfo(5)).
 */
export async function mountOf(path: string): Promise<MountPoint> {
  await using file = await open(path);
  const info = await readFile(`/proc/self/fdinfo/${file.fd}`, 'utf8');
  const id = /^mnt_id:\s*(\d+)$/m.exec(info)?.[1];
  const mounts = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  const line = mounts.find((candidate) => candidate.startsWith(`${id} `));
  // 36 35 98:0 /root /mount/point rw,noatime shared:1 - type source rw,superoptions
  const [own = '', fileSystem = ''] = (line ?? '').split(' - ');
  const [, , , , mountPoint, options = ''] = own.split(' ');
  const [type, , superOptions = ''] = fileSystem.split(' ');
  if (mountPoint === undefined || type === undefined) {
    throw new Error(`${path} is on mount ${id}, which /proc/self/mountinfo does not list`);
  }
  return {
    path: unescapeOctal(mountPoint),
    type,
    options: [...options.split(','), ...superOptions.split(',')],
  };
}
