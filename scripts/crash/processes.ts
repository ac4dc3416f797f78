/** What /proc tells about the processes of one state directory. */
import { readdirSync, readFileSync } from 'node:fs';

/** A process as /proc shows it. */
export interface SeenProcess {
  readonly pid: number;
  readonly parent: number;
  readonly command: string;
  readonly cgroup: string;
  readonly environment: string;
}

/** The text of a file of /proc; empty where its process is gone meanwhile. */
function read(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1');
  } catch {
    return '';
  }
}

/** All processes that are not dead. */
export function processes(): SeenProcess[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((name) => {
      const stat = read(name, 'stat');
      const [state, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return {
        pid: Number(name),
        parent: Number(parent),
        command: state === 'Z' ? '' : read(name, 'cmdline').replaceAll('\0', ' ').trim(),
        cgroup: read(name, 'cgroup'),
        environment: read(name, 'environ'),
      };
    })
    .filter(({ command }) => command !== '');
}

/** Pids of the controllers (libvirt_lxc) of domains whose names begin with `prefix`, by sandbox id. */
export function controllers(prefix: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const { pid, command } of processes()) {
    const id = /libvirt_lxc --name (\S+)/.exec(command)?.[1];
    if (id?.startsWith(prefix) === true) found.set(id.slice(prefix.length), pid);
  }
  return found;
}

/** The init of a sandbox: its controller's child. */
export function initOf(controller: number): number | undefined {
  return processes().find(({ parent }) => parent === controller)?.pid;
}

/** Sends a signal; false where there is no such process any more. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch {
    return false;
  }
}
