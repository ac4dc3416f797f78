import { existsSync } from 'node:fs';
import { chmod, mkdir, open, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { shellWord } from '../../../shell-words.ts';
import { removeTree } from '../../files/remove-tree.ts';
import { runProgram, startProgram } from '../../process/child-process.ts';
import { hardLimit, hasSystemd, mayRaiseLimits } from '../../process/process.ts';
import { clearPlace } from '../../state/damage.ts';
import { LibvirtError } from '../errors.ts';
import {
  type CgroupHome,
  cgroupHome,
  controllerProcesses,
  DOMAINS,
  makeHome,
  V2_CONTROLLERS,
} from './cgroups.ts';
import type { EmbeddedFiles } from './files.ts';

const LIBVIRTD = ['/usr/sbin/libvirtd', '/usr/bin/libvirtd', '/sbin/libvirtd'];

const DRIVER_FOLDERS = [
  '/usr/lib64/libvirt/connection-driver',
  '/usr/lib/x86_64-linux-gnu/libvirt/connection-driver',
  '/usr/lib/aarch64-linux-gnu/libvirt/connection-driver',
  '/usr/lib/libvirt/connection-driver',
];

const DRIVERS = [
  'libvirt_driver_lxc.so',
  'libvirt_driver_network.so',
  'libvirt_driver_nwfilter.so',
  'libvirt_driver_qemu.so',
];

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

/** The caller's environment does not reach the daemon. */
function environment({ drivers }: EmbeddedFiles): Record<string, string> {
  const PATH = '/usr/sbin:/usr/bin:/sbin:/bin';
  return { PATH, LANG: 'C.UTF-8', LIBVIRT_DRIVER_DIR: drivers };
}

/**
 * The caller holds the lock. libvirtd is ready when its socket answers.
 * @param idle seconds
 * @returns its exit status, once it has ended
 */
export async function launch(
  files: EmbeddedFiles,
  idle: number,
): Promise<() => number | undefined> {
  const libvirtd = findLibvirtd();
  // The sandbox's mapped root must reach its devpts; libvirt's own directories above it are 0700.
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
  await writeFile(files.machines, MACHINES);
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
  return () => (systemd && ended === 0 ? undefined : ended);
}

const SYSTEM_BUS = '/run/dbus';

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
    // -1: a frozen kiln (^Z, a debugger) must not lose its domains to a keepalive.
    'keepalive_interval = -1',
    `log_outputs = ${JSON.stringify(`3:file:${files.log}`)}`,
    '',
  ].join('\n');
}

/**
 * Of machines. kiln says for each whom its qemu runs as, and makes what that user opens: libvirt changes no owner.
 * There is no virtlogd; what a guest says goes to kiln's relay. A guest that has qemu crash gets its memory, and so what
 * is secret in it, into no dump: with a limit of 0 a program in core_pattern(5) would see it all the same. Saved machines
 * are files with holes: by another format qemu would touch all memory of a restored one.
 */
const MACHINES = `dynamic_ownership = 0
remember_owner = 0
seccomp_sandbox = 1
max_core = 1
stdio_handler = "file"
save_image_format = "sparse"
`;

function mountTable(files: EmbeddedFiles, home: CgroupHome): string {
  const binds = [...files.binds];
  // If libvirt found systemd-machined, machined would put domains into scopes outside the daemon's cgroup
  // namespace, and they would not start. The controllers get no environment, so only hiding the bus helps.
  if (existsSync(SYSTEM_BUS)) binds.push([files.noBus, SYSTEM_BUS]);
  const lines = binds.map(
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

function inner(files: EmbeddedFiles, home: CgroupHome, libvirtd: string, idle: number): string {
  // -n: /run/mount/utab is the host's, and nobody would remove entries from it again.
  const lines = ['umount -n -l /sys/fs/cgroup', `mount -n -a -T ${shellWord(files.mounts)}`];
  if (home.version === 2) {
    // A cgroup that passes controllers on may not contain a process.
    lines.push(
      `mkdir -p /sys/fs/cgroup/daemon /sys/fs/cgroup/${DOMAINS}`,
      'echo $$ > /sys/fs/cgroup/daemon/cgroup.procs',
      `for c in ${V2_CONTROLLERS.join(' ')}; do`,
      `  for g in . ${DOMAINS}; do echo +$c > /sys/fs/cgroup/$g/cgroup.subtree_control || :; done`,
      'done 2>/dev/null',
    );
  }
  const words = ['--config', files.config, '--pid-file', files.pid, '--timeout', String(idle)];
  lines.push(`exec ${[libvirtd, ...words].map(shellWord).join(' ')}`);
  return lines.join('\n');
}

/**
 * Open files of libvirtd, which needs four or so for a sandbox. Before libvirt_lxc starts an init, it closes every
 * descriptor below its hard limit one by one: 20,000 take 2 to 9 ms, and systemd's default is 524,288. A sandbox gets
 * kiln's own hard limit afterwards (shareOpenFiles()).
 */
const OPEN_FILES = 4096;

/**
 * What sandboxes have of these counts as root's, too (start-command.ts), and all of them together can have what
 * libvirtd could when it made their user namespaces: half of it, so that the other half stays root's own.
 */
const COUNTED = ['sigpending', 'msgqueue'] as const;

/**
 * Becomes libvirtd, in cgroups and namespaces of its own; the cgroup namespace has those cgroups as root.
 * Mounts and unmounts of the host still reach it (slave), so it keeps no file system busy that the host
 * unmounts.
 */
function launchScript(
  files: EmbeddedFiles,
  home: CgroupHome,
  running: readonly number[],
  libvirtd: string,
  idle: number,
): string {
  // Commands get a core dump limit of 1, and a sandbox cannot raise a limit of 0.
  const lines = ['set -eu', 'umask 022', 'cd /', 'ulimit -H -c unlimited 2>/dev/null || :'];
  const halves = COUNTED.map((name) => `--${name}=${hardLimit(name) / 2n}`);
  lines.push(`prlimit --pid $$ ${halves.join(' ')}`);
  if (mayRaiseLimits()) lines.push(`ulimit -n ${OPEN_FILES} 2>/dev/null || :`);
  const living = running[0];
  let enter = 'unshare --cgroup';
  if (home.version === 1) {
    for (const path of home.joined)
      lines.push(`echo $$ > ${shellWord(join(path, 'cgroup.procs'))}`);
  } else {
    const top = home.joined[0] ?? '';
    if (living === undefined) {
      lines.push(
        `for g in ${shellWord(join(top, DOMAINS))} ${shellWord(top)}; do`,
        '  [ ! -e $g/cgroup.subtree_control ] || for c in $(cat $g/cgroup.subtree_control); do',
        '    echo -$c > $g/cgroup.subtree_control',
        '  done',
        'done',
        `echo $$ > ${shellWord(join(top, 'cgroup.procs'))}`,
      );
    } else {
      // Domains outlived the last daemon, and their controllers keep its cgroup namespace.
      lines.push(`echo $$ > ${shellWord(join(top, 'daemon/cgroup.procs'))}`);
      enter = `nsenter --cgroup=/proc/${living}/ns/cgroup --`;
    }
  }
  const script = shellWord(`set -eu\n${inner(files, home, libvirtd, idle)}`);
  lines.push(`exec ${enter} unshare --mount --propagation slave sh -c ${script}`, '');
  return lines.join('\n');
}

function unitOf(files: EmbeddedFiles): { name: string; cgroup: string } {
  const name = `${files.name}.service`;
  return { name, cgroup: `system.slice/${name}` };
}

/**
 * Has systemd run `start` as a transient unit with a delegated cgroup subtree, which outlives the session or CI
 * job.
 */
async function asUnit(
  files: EmbeddedFiles,
  environment: Readonly<Record<string, string>>,
  start: readonly string[],
): Promise<string[]> {
  const { name } = unitOf(files);
  const loaded = await runProgram('systemctl', ['show', '--property=LoadState', '--value', name]);
  if (loaded.stdout.trim() === 'loaded') return ['systemctl', 'start', name];
  const { stdout } = await runProgram('systemd-run', ['--version']);
  const version = Number(/^systemd (\d+)/.exec(stdout)?.[1]);
  return [
    'systemd-run',
    `--unit=${name}`,
    '--description=kiln: embedded libvirtd',
    '--collect',
    '--quiet',
    '--property=Delegate=yes',
    // Otherwise all sandboxes would share systemd's default limit, 15 % of the host's tasks.
    '--property=TasksMax=infinity',
    // Sandboxes outlive a killed daemon; the next one takes them over.
    '--property=KillMode=process',
    // Once the unit's own cgroup passes controllers on, systemd can start no process in it.
    ...(version >= 254 ? ['--property=DelegateSubgroup=daemon'] : []),
    `--property=StandardOutput=append:${files.log}`,
    `--property=StandardError=append:${files.log}`,
    ...Object.entries(environment).map(([key, value]) => `--setenv=${key}=${value}`),
    '--',
    ...start,
  ];
}
