import { readFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import type { StatePaths } from '../../state/paths.ts';

/** Files and names of the embedded daemon of one state directory. */
export interface EmbeddedFiles {
  /** `kiln-HASH`: the name of its cgroup and, under systemd, of its unit. */
  readonly name: string;
  /** Mode 0700, on /run: a reboot removes it together with the processes it describes. */
  readonly run: string;
  readonly lock: string;
  readonly socket: string;
  readonly pid: string;
  readonly config: string;
  readonly mounts: string;
  readonly script: string;
  /** Only the drivers that kiln needs: libvirtd loads every driver it finds. */
  readonly drivers: string;
  /** Warnings of libvirtd, and the output of the launch script. */
  readonly log: string;
  /** The directories that libvirtd sees in place of the system's: [private, system]. */
  readonly binds: readonly (readonly [string, string])[];
  /** An empty directory that is mounted over the system bus. */
  readonly noBus: string;
  /** libvirt writes one log a domain here, NAME.log, and never deletes it. */
  readonly domainLogs: string;
  /** libvirt makes folders to mount on here for each domain, and never removes them. */
  readonly domainRun: string;
  readonly uri: string;
}

/** The lock for starting and ending a daemon, in the folder of its state on /run. */
export const LOCK = 'libvirt.lock';

/** Where the embedded daemon of `paths` keeps its files. */
export function embeddedFiles(paths: StatePaths): EmbeddedFiles {
  const run = join(paths.run, 'libvirt');
  const socket = join(run, 'libvirt-sock');
  const logs = join(paths.libvirt, 'log');
  // libvirtd.conf cannot express a quote, and its list of logs cannot express a blank.
  const linked = join(paths.link, relative(paths.root, paths.libvirt));
  return {
    name: `kiln-${basename(paths.run)}`,
    run,
    lock: join(paths.run, LOCK),
    socket,
    pid: join(run, 'libvirtd.pid'),
    config: join(run, 'libvirtd.conf'),
    mounts: join(run, 'fstab'),
    script: join(run, 'launch.sh'),
    drivers: join(run, 'drivers'),
    log: join(linked, 'libvirtd.log'),
    binds: [
      [join(run, 'run'), '/run/libvirt'],
      [join(linked, 'lib'), '/var/lib/libvirt'],
      [join(linked, 'log'), '/var/log/libvirt'],
      [join(linked, 'etc'), '/etc/libvirt'],
      [join(linked, 'cache'), '/var/cache/libvirt'],
    ],
    noBus: join(run, 'no-bus'),
    domainLogs: join(logs, 'lxc'),
    domainRun: join(run, 'run/lxc'),
    uri: `lxc+unix:///system?socket=${socket}`,
  };
}

/** The pid in the embedded daemon's pid file, if that process is the daemon of these files. */
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
