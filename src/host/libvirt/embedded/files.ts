import { basename, join, relative } from 'node:path';
import { readText } from '../../calls/libc.ts';
import type { StatePaths } from '../../state/paths.ts';

export const LOCK = 'libvirt.lock';

export function embeddedFiles(paths: StatePaths) {
  const run = join(paths.run, 'libvirt');
  const socket = join(run, 'libvirt-sock');
  // libvirtd.conf cannot express a quote, and its list of logs cannot express a blank.
  const linked = join(paths.link, relative(paths.root, paths.libvirt));
  const binds: readonly (readonly [string, string])[] = [
    [join(run, 'run'), '/run/libvirt'],
    [join(linked, 'lib'), '/var/lib/libvirt'],
    [join(linked, 'log'), '/var/log/libvirt'],
    [join(linked, 'etc'), '/etc/libvirt'],
    [join(linked, 'cache'), '/var/cache/libvirt'],
  ];
  return {
    name: `kiln-${basename(paths.run)}`,
    /** Mode 0700, on /run: a reboot removes it together with the processes. */
    run,
    lock: join(paths.run, LOCK),
    socket,
    pid: join(run, 'libvirtd.pid'),
    config: join(run, 'libvirtd.conf'),
    mounts: join(run, 'fstab'),
    /** libvirt's configuration of machines, in the folder that becomes /etc/libvirt. */
    machines: join(paths.libvirt, 'etc', 'qemu.conf'),
    script: join(run, 'launch.sh'),
    /** Only the drivers that kiln needs: libvirtd loads every driver it finds. */
    drivers: join(run, 'drivers'),
    log: join(linked, 'libvirtd.log'),
    binds,
    noBus: join(run, 'no-bus'),
    /** libvirt writes NAME.log for each domain here, and never deletes it. */
    domainLogs: join(paths.libvirt, 'log/lxc'),
    /** libvirt makes folders for each domain here, and never removes them. */
    domainRun: join(run, 'run/lxc'),
    machineLogs: join(paths.libvirt, 'log/qemu'),
    /** Of a folder for each machine here libvirt leaves those behind whose start it did not survive. */
    machineFolders: [join(paths.libvirt, 'lib/qemu'), join(run, 'run/qemu/channel')],
    uri: `lxc+unix:///system?socket=${socket}`,
    machineUri: `qemu+unix:///system?socket=${socket}`,
  };
}

export type EmbeddedFiles = Readonly<ReturnType<typeof embeddedFiles>>;

export function daemonPid(files: EmbeddedFiles): number | undefined {
  const pid = Number(readText(files.pid));
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  const words = readText(`/proc/${pid}/cmdline`)?.split('\0');
  return words?.includes(files.config) === true ? pid : undefined;
}
