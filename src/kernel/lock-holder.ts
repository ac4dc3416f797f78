import { readFileSync, statSync } from 'node:fs';

/**
 * A process that holds a lock of flock(2) on the file, by /proc/locks (proc_locks(5)); undefined where
 * nobody does, or the kernel does not tell: of a process in another pid namespace, or of a file system
 * whose device numbers are not those of stat(2).
 */
export function lockHolder(path: string): number | undefined {
  const file = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (file === undefined) return undefined;
  // 1: FLOCK  ADVISORY  WRITE 708 00:13:16478 0 EOF; who waits has `->` after the number. Here nobody
  // waits in the kernel.
  const [major, minor] = [Number((file.dev >> 8n) & 0xfffn), Number(file.dev & 0xffn)];
  const rest = Number((file.dev >> 12n) & 0xfff00n);
  const hex = (number: number) => number.toString(16).padStart(2, '0');
  const name = `${hex(major)}:${hex(minor | rest)}:${file.ino}`;
  for (const line of readFileSync('/proc/locks', 'latin1').split('\n')) {
    const [, kind, , , pid, where] = line.split(/ +/);
    if (kind === 'FLOCK' && where === name && Number(pid) > 0) return Number(pid);
  }
  return undefined;
}
