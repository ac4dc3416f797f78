import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, open, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { LibvirtError } from '../errors.ts';
import {
  type CgroupHome,
  cgroupHome,
  DOMAINS,
  domainProcesses,
  makeHome,
  V2_CONTROLLERS,
} from './cgroups.ts';
import type { EmbeddedFiles } from './files.ts';

const LIBVIRTD = ['/usr/sbin/libvirtd', '/usr/bin/libvirtd', '/sbin/libvirtd'];

/** Where distributions put libvirt_driver_lxc.so. */
const DRIVER_FOLDERS = [
  '/usr/lib64/libvirt/connection-driver',
  '/usr/lib/x86_64-linux-gnu/libvirt/connection-driver',
  '/usr/lib/aarch64-linux-gnu/libvirt/connection-driver',
  '/usr/lib/libvirt/connection-driver',
];

/** `network` is for boxes with `--network NAME`. */
const DRIVERS = ['libvirt_driver_lxc.so', 'libvirt_driver_network.so'];

/** The environment of the daemon: nothing of the caller's gets into it. */
const ENVIRONMENT = {
  PATH: '/usr/sbin:/usr/bin:/sbin:/bin',
  LANG: 'C.UTF-8',
  // Were machined found, it would move domains out of the daemon's own cgroup.
  DBUS_SYSTEM_BUS_ADDRESS: 'unix:path=/nonexistent',
};

/** systemd runs this machine (sd_booted(3)). */
export function hasSystemd(): boolean {
  return existsSync('/run/systemd/system');
}

/** The cgroups of the daemon of `files`, made or not. */
export function homeOf(files: EmbeddedFiles): Promise<CgroupHome> {
  return cgroupHome(files.name, hasSystemd() ? `system.slice/${files.name}.service` : undefined);
}

/** A word for sh. */
function quote(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A field of fstab(5). */
function field(text: string): string {
  return text.replace(/[\s\\#]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);
}

function configuration(files: EmbeddedFiles): string {
  return [
    `unix_sock_dir = ${JSON.stringify(files.run)}`,
    'unix_sock_rw_perms = "0700"',
    'unix_sock_ro_perms = "0700"',
    'auth_unix_rw = "none"',
    'auth_unix_ro = "none"',
    'audit_level = 0',
    // A frozen kiln (^Z, a debugger) must not lose its domains to a keepalive.
    'keepalive_interval = -1',
    // Level 3: warnings and errors.
    `log_outputs = ${JSON.stringify(`3:file:${files.log}`)}`,
    '',
  ].join('\n');
}

/** What is mounted in the daemon's own mount namespace, in the form of fstab(5). */
function mountTable(files: EmbeddedFiles, home: CgroupHome): string {
  const lines = files.binds.map(
    ([source, target]) => `${field(source)} ${target} none bind,x-mount.mkdir 0 0`,
  );
  if (home.version === 2) {
    lines.push('cgroup2 /sys/fs/cgroup cgroup2 nosuid,nodev,noexec 0 0');
  } else {
    lines.push('tmpfs /sys/fs/cgroup tmpfs mode=0755,size=64k,nosuid,nodev,noexec 0 0');
    for (const { controllers } of home.seen) {
      const target = field(`/sys/fs/cgroup/${controllers.join(',')}`);
      lines.push(
        `cgroup ${target} cgroup x-mount.mkdir,nosuid,nodev,noexec,${controllers.join(',')} 0 0`,
      );
    }
  }
  return `${lines.join('\n')}\n`;
}

/** The commands, in the new namespaces, that lead to libvirtd. */
function inner(files: EmbeddedFiles, home: CgroupHome, libvirtd: string, idle: number): string {
  const lines = ['umount -l /sys/fs/cgroup', `mount -a -T ${quote(files.mounts)}`];
  if (home.version === 2) {
    // A cgroup that passes controllers on may hold no process itself.
    lines.push(
      `mkdir -p /sys/fs/cgroup/daemon /sys/fs/cgroup/${DOMAINS}`,
      'echo $$ > /sys/fs/cgroup/daemon/cgroup.procs',
      `for c in ${V2_CONTROLLERS.join(' ')}; do`,
      `  for g in . ${DOMAINS}; do echo +$c > /sys/fs/cgroup/$g/cgroup.subtree_control || :; done`,
      'done 2>/dev/null',
    );
  }
  const words = ['--config', files.config, '--pid-file', files.pid, '--timeout', String(idle)];
  lines.push(`exec ${[libvirtd, ...words].map(quote).join(' ')}`);
  return lines.join('\n');
}

/**
 * The script that becomes libvirtd: enters its cgroups, makes its namespaces (the cgroup one has
 * those cgroups as root), mounts, executes. Mounts of the host still reach it (slave), so that it
 * does not keep a file system busy that the host unmounts.
 */
function launchScript(
  files: EmbeddedFiles,
  home: CgroupHome,
  running: readonly number[],
  libvirtd: string,
  idle: number,
): string {
  const lines = ['set -eu', 'umask 022', 'cd /'];
  const living = running[0];
  let enter = 'unshare --cgroup';
  if (home.version === 1) {
    for (const path of home.joined) lines.push(`echo $$ > ${quote(join(path, 'cgroup.procs'))}`);
  } else {
    const top = home.joined[0] ?? '';
    if (living === undefined) {
      // Nobody is below: stop passing controllers on, so that the root takes this process.
      lines.push(
        `for g in ${quote(join(top, DOMAINS))} ${quote(top)}; do`,
        '  [ ! -e $g/cgroup.subtree_control ] || for c in $(cat $g/cgroup.subtree_control); do',
        '    echo -$c > $g/cgroup.subtree_control',
        '  done',
        'done',
        `echo $$ > ${quote(join(top, 'cgroup.procs'))}`,
      );
    } else {
      // Domains outlived the last daemon; their controllers keep its cgroup namespace.
      lines.push(`echo $$ > ${quote(join(top, 'daemon/cgroup.procs'))}`);
      enter = `nsenter --cgroup=/proc/${living}/ns/cgroup --`;
    }
  }
  const script = quote(`set -eu\n${inner(files, home, libvirtd, idle)}`);
  lines.push(`exec ${enter} unshare --mount --propagation slave sh -c ${script}`, '');
  return lines.join('\n');
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
  await rm(files.drivers, { recursive: true, force: true });
  await mkdir(files.drivers, { mode: 0o700 });
  const present = await readdir(folder);
  for (const driver of DRIVERS.filter((name) => present.includes(name))) {
    await symlink(join(folder, driver), join(files.drivers, driver));
  }
}

/** The words before the script that make systemd own the daemon: it outlives session and CI unit. */
async function systemdRun(files: EmbeddedFiles): Promise<string[]> {
  const { stdout } = await promisify(execFile)('systemd-run', ['--version']);
  const version = Number(/^systemd (\d+)/.exec(stdout)?.[1]);
  return [
    'systemd-run',
    `--unit=${files.name}`,
    '--description=kiln: embedded libvirtd',
    '--collect',
    '--quiet',
    '--property=Delegate=yes',
    // Boxes outlive a killed daemon; the next one takes them over.
    '--property=KillMode=process',
    ...(version >= 254 ? ['--property=DelegateSubgroup=daemon'] : []),
    `--property=StandardOutput=append:${files.log}`,
    `--property=StandardError=append:${files.log}`,
    ...Object.entries(environment(files)).map(([name, value]) => `--setenv=${name}=${value}`),
  ];
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
  for (const [folder] of files.binds) await mkdir(folder, { recursive: true, mode: 0o711 });
  await selectDrivers(files);
  const home = await homeOf(files);
  const systemd = hasSystemd();
  if (!systemd || home.version === 1) await makeHome(home);
  const running = await domainProcesses(home);
  await writeFile(files.config, configuration(files));
  await writeFile(files.mounts, mountTable(files, home));
  await writeFile(files.script, launchScript(files, home, running, libvirtd, idle));
  const words = [...(systemd ? await systemdRun(files) : []), '/bin/sh', files.script];
  await using log = await open(files.log, 'a', 0o600);
  const child = spawn(words[0] ?? '', words.slice(1), {
    cwd: '/',
    env: systemd ? process.env : environment(files),
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
