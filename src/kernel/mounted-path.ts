/**
 * Where a file lies, whatever path leads there: through links, `..`, bind mounts. Sources: open(2),
 * proc_pid_fdinfo(5), proc_pid_mountinfo(5).
 */
import { readFileSync, readlinkSync } from 'node:fs';

/** A file's place. */
export interface MountedPath {
  /** Its absolute path, without links. */
  readonly path: string;
  /** MAJOR:MINOR of its file system. */
  readonly device: string;
  /** Its path from the root of its file system, which is the same below every bind mount. */
  readonly inside: string;
}

/** The place of the file that `fd` has open (O_PATH suffices). Throws the error of reading /proc. */
export function mountedPath(fd: number): MountedPath {
  const path = readlinkSync(`/proc/self/fd/${fd}`);
  const id = /^mnt_id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1];
  for (const line of readFileSync('/proc/self/mountinfo', 'utf8').split('\n')) {
    const [mount, , device, root, point] = line.split(' ');
    if (mount !== id || device === undefined || root === undefined || point === undefined) continue;
    const below = path.slice(unescaped(point).replace(/\/$/, '').length);
    return { path, device, inside: `${unescaped(root).replace(/\/$/, '')}${below}` || '/' };
  }
  throw new Error(`${path} lies on a mount that is not listed`);
}

/** A space, a tab, a line feed and a backslash are `\` and three octal digits there. */
function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** Whether `path` is `above` or lies below it. Both are absolute, without links. */
export function isWithin(path: string, above: string): boolean {
  return path === above || path.startsWith(above === '/' ? '/' : `${above}/`);
}
