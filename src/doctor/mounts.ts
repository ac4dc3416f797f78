import { execa } from 'execa';

/** The mount that a path is on. */
export interface MountPoint {
  readonly path: string;
  /** The file system, as in /proc/filesystems. */
  readonly type: string;
  /** The mount's own options and the file system's: `rw`, `noexec`, … */
  readonly options: readonly string[];
}

/** Asks findmnt(8), which knows about mounts on top of each other, for the mount `path` is on. */
export async function mountOf(path: string): Promise<MountPoint> {
  const { stdout } = await execa(
    'findmnt',
    ['--json', '--first-only', '--output', 'TARGET,FSTYPE,OPTIONS', '--target', path],
    { env: { PATH: '/usr/bin:/bin' }, stdin: 'ignore' },
  );
  const [found] = (
    JSON.parse(stdout) as {
      filesystems: Array<{ target: string; fstype: string; options: string }>;
    }
  ).filesystems;
  if (found === undefined) throw new Error(`findmnt knows no mount for ${path}`);
  return { path: found.target, type: found.fstype, options: found.options.split(',') };
}
