import { existsSync } from 'node:fs';
import { chmod, mkdir, open, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startProgram } from '../../kernel/child-process.ts';
import { removeTree } from '../../kernel/remove-tree.ts';
import { clearPlace } from '../../state/damage.ts';
import { LibvirtError } from '../errors.ts';
import { type CgroupHome, cgroupHome, controllerProcesses, makeHome } from './cgroups.ts';
import type { EmbeddedFiles } from './files.ts';
import { configuration, launchScript, mountTable } from './launch-script.ts';
import { asUnit, hasSystemd, unitOf } from './systemd.ts';

const LIBVIRTD = ['/usr/sbin/libvirtd', '/usr/bin/libvirtd', '/sbin/libvirtd'];

/** Where distributions put libvirt_driver_lxc.so. */
const DRIVER_FOLDERS = [
  '/usr/lib64/libvirt/connection-driver',
  '/usr/lib/x86_64-linux-gnu/libvirt/connection-driver',
  '/usr/lib/aarch64-linux-gnu/libvirt/connection-driver',
  '/usr/lib/libvirt/connection-driver',
];

/** `network` is for boxes with `--network NAME`. */
const DRIVERS = [
  'libvirt_driver_lxc.so',
  'libvirt_driver_network.so',
  'libvirt_driver_nwfilter.so',
];

/** The environment of the daemon: nothing of the caller's gets into it. */
const ENVIRONMENT = {
  PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
};

/** The cgroups of the daemon of `files`, made or not. */
export function homeOf(files: EmbeddedFiles): Promise<CgroupHome> {
  return cgroupHome(files.name, hasSystemd() ? unitOf(files).cgroup : undefined);
}

function findLibvirtd(): string {
  const found = LIBVIRTD.find((path) => existsSync(path));
  if (found !== undefined) return found;
  throw new LibvirtError('E_LIBVIRT_MISSING', 'there is no libvirtd on this machine', {
    hint: 'apt-get install libvirt-daemon libvirt-daemon-driver-lxc, or dnf install libvirt-daemon libvirt-daemon-driver-lxc',
  });
}

async function selectDrivers(files: EmbeddedFiles): Promise<void> {
  const folder = DRIVER_FOLDERS.find((path) => existsSync(join(path, DRIVERS[0] ?? '')));
  if (folder === undefined) {
    throw new LibvirtError('E_LIBVIRT_MISSING', "libvirt's LXC driver is not installed", {
      hint: 'apt-get install libvirt-daemon-driver-lxc, or dnf install libvirt-daemon-driver-lxc',
    });
  }
  await removeTree(files.drivers);
  await mkdir(files.drivers, { mode: 0o700 });
  const present = await readdir(folder);
  for (const driver of DRIVERS.filter((name) => present.includes(name))) {
    await symlink(join(folder, driver), join(files.drivers, driver));
  }
}

function environment(files: EmbeddedFiles): Record<string, string> {
  return { ...ENVIRONMENT, LIBVIRT_DRIVER_DIR: files.drivers };
}

/** Ends when the launcher has: of a daemon that runs, it is the daemon that ended. */
export interface Launched {
  /** Undefined while it runs. Under systemd 0 means that the unit was started. */
  exitCode(): number | undefined;
}

/**
 * Starts libvirtd; the caller holds the lock. It is ready when its socket answers.
 * @param idle seconds without client and running domain after which it ends by itself
 */
export async function launch(files: EmbeddedFiles, idle: number): Promise<Launched> {
  const libvirtd = findLibvirtd();
  // A box's mapped root must pass to its console's devpts; on the host their parent is 0700.
  for (const folder of [...files.binds.map(([source]) => source), files.noBus]) {
    await mkdir(folder, { recursive: true });
    await chmod(folder, 0o711);
  }
  await selectDrivers(files);
  const home = await homeOf(files);
  const systemd = hasSystemd();
  if (!systemd || home.version === 1) await makeHome(home);
  const running = await controllerProcesses(home);
  await writeFile(files.config, configuration(files));
  await writeFile(files.mounts, mountTable(files, home));
  await writeFile(files.script, launchScript(files, home, running, libvirtd, idle));
  const start = ['/bin/sh', files.script];
  const words = systemd ? await asUnit(files, environment(files), start) : start;
  clearPlace(files.log);
  await using log = await open(files.log, 'a', 0o600);
  const child = startProgram(words[0] ?? '', words.slice(1), {
    cwd: '/',
    env: environment(files),
    stdio: ['ignore', log.fd, log.fd],
    detached: true,
  });
  let ended: number | undefined;
  child.once('error', () => {
    ended = 127;
  });
  child.once('exit', (code) => {
    ended = code ?? 128;
  });
  child.unref();
  return { exitCode: () => (systemd && ended === 0 ? undefined : ended) };
}
