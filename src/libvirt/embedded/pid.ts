import { readFileSync } from 'node:fs';
import type { EmbeddedFiles } from './files.ts';

/** The pid in the pid file of the embedded daemon, if that process is the daemon of these files. */
export function daemonPid(files: EmbeddedFiles): number | undefined {
  const pid = Number(read(files.pid));
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  return read(`/proc/${pid}/cmdline`).split('\0').includes(files.config) ? pid : undefined;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
