/**
 * Host A: a disk with a Debian under systemd, cgroup v2, AppArmor and a system libvirtd. Made once
 * and kept below .cache/hosts, named by what goes into it; never written to afterwards.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, readlink, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

/** The release that host A runs. */
const SUITE = 'trixie';

/** What makes it a host such as users have, beside what kiln itself needs. */
const SYSTEM = [
  'linux-image-cloud-amd64',
  'initramfs-tools',
  'systemd-sysv',
  // systemd-machined: libvirt puts domains into scopes of its making where it runs.
  'systemd-container',
  'dbus',
  'udev',
  'kmod',
  'apparmor',
  'libvirt-daemon-system',
  'iproute2',
];

/** What the tests that run there need. */
const TESTS = ['busybox-static', 'procps'];

/** Bytes of the root file system; sparse, so that only what is in it takes room. */
const DISK_BYTES = 12 * 2 ** 30;

/** How many disks of former package lists are kept. */
const KEPT = 1;

/** A bootable host. */
export interface HostDisk {
  readonly disk: string;
  readonly kernel: string;
  readonly initrd: string;
}

/** The Debian packages that host-packages.txt names for running kiln. */
async function kilnPackages(top: string): Promise<string[]> {
  const text = await readFile(join(top, 'scripts/host-packages.txt'), 'utf8');
  return text
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([use, , debian]) => use === 'run' && debian !== undefined && debian !== '-')
    .map(([, , debian]) => String(debian));
}

/**
 * What the disk is given beyond packages. The job is whatever script lies on the second disk; the
 * machine powers off after it, however it ended.
 */
const customize = `set -eu
root=$1
echo host-a >"$root/etc/hostname"
printf '127.0.0.1 localhost host-a\\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 errors=remount-ro 0 1\\nLABEL=kiln-job /srv ext4 defaults 0 2\\n' >"$root/etc/fstab"
cat >"$root/etc/systemd/system/kiln-job.service" <<'UNIT'
[Unit]
Description=The job of kiln's test-hosts
After=multi-user.target libvirtd.socket
RequiresMountsFor=/srv
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh /srv/job.sh
StandardOutput=append:/srv/results/job.log
StandardError=append:/srv/results/job.log
UNIT
cat >"$root/etc/systemd/system/kiln-job.target" <<'UNIT'
[Unit]
Description=Host A with its job
Requires=multi-user.target
Wants=kiln-job.service
After=multi-user.target
AllowIsolate=yes
UNIT
ln -sf /etc/systemd/system/kiln-job.target "$root/etc/systemd/system/default.target"
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily.timer"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily-upgrade.timer"
`;

/** Makes host A's disk unless it is there. */
export async function ensureHostDisk(top: string, cache: string): Promise<HostDisk> {
  const packages = [...new Set([...SYSTEM, ...TESTS, ...(await kilnPackages(top))])].sort();
  const key = createHash('sha256')
    .update(JSON.stringify([SUITE, packages, customize, DISK_BYTES]))
    .digest('hex')
    .slice(0, 16);
  const folder = join(cache, `a-${key}`);
  const host = {
    disk: join(folder, 'disk.img'),
    kernel: join(folder, 'vmlinuz'),
    initrd: join(folder, 'initrd.img'),
  };
  if (await stat(folder).catch(() => undefined)) return host;
  process.stdout.write(`==> host A: ${packages.length} packages and what they need (mmdebstrap)\n`);
  const half = join(cache, `.a-${key}.${process.pid}`);
  await mkdir(half, { recursive: true });
  try {
    await makeDisk(half, packages);
    await rename(half, folder);
  } finally {
    await rm(half, { recursive: true, force: true });
  }
  await pruneDisks(cache, folder);
  return host;
}

async function makeDisk(folder: string, packages: readonly string[]): Promise<void> {
  const inFolder = execa({ cwd: folder, stdio: ['ignore', 'inherit', 'inherit'] });
  await inFolder('mmdebstrap', [
    '--variant=minbase',
    `--include=${packages.join(',')}`,
    `--customize-hook=sh -c '${customize.replaceAll("'", "'\\''")}' customize "$1"`,
    '--quiet',
    '--mode=root',
    '--format=directory',
    SUITE,
    'tree',
  ]);
  // What the boot loader of a real host would load; Debian links the newest at the root.
  for (const name of ['vmlinuz', 'initrd.img']) {
    await inFolder('cp', ['-L', await realpathBelow(join(folder, 'tree'), name), name]);
  }
  // Not from an archive: mke2fs 1.47 refuses those with names that are not ASCII.
  await inFolder('mke2fs', ['-q', '-t', 'ext4', '-d', 'tree', 'disk.img', `${DISK_BYTES / 1024}k`]);
  await rm(join(folder, 'tree'), { recursive: true });
}

/** The file that the link `name` at the top of `root` names, relative or not. */
async function realpathBelow(root: string, name: string): Promise<string> {
  return join(root, await readlink(join(root, name)));
}

/** Deletes the disks of former package lists, but for the youngest. */
async function pruneDisks(cache: string, current: string): Promise<void> {
  const former = (await readdir(cache))
    .filter((name) => name.startsWith('a-'))
    .map((name) => join(cache, name))
    .filter((path) => path !== current);
  const ages = await Promise.all(
    former.map(async (path) => ({ path, time: (await stat(path)).mtimeMs })),
  );
  ages.sort((a, b) => b.time - a.time);
  for (const { path } of ages.slice(KEPT)) await rm(path, { recursive: true, force: true });
}
