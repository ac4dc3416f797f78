/** The kinds of host that scripts/test-hosts can make: what is on their disks, and how they boot. */

/** A kind of host. */
export interface HostKind {
  readonly name: 'a' | 'b';
  readonly title: string;
  /** The Debian packages that make it a host such as users have, beside what kiln needs. */
  readonly packages: readonly string[];
  /** A script for sh, given the root of the new system as $1. */
  readonly customize: string;
  /** What its administrator does before kiln can run, for sh, in the checkout. */
  readonly prepare: string;
  /** Added to the kernel's command line. */
  readonly boot: string;
}

const COMMON = [
  'linux-image-cloud-amd64',
  'initramfs-tools',
  'systemd-sysv',
  // systemd-machined: libvirt puts domains into scopes of its making where it runs.
  'systemd-container',
  'dbus',
  'udev',
  'kmod',
  'libvirt-daemon-system',
  'iproute2',
];

/**
 * The job is whatever script lies on the second disk; the machine powers off after it, however it
 * ended, unless it has left /srv/reboot: then the machine boots, and runs it again.
 */
function jobSetup(host: string, options: string, service: string): string {
  return `set -eu
root=$1
echo ${host} >"$root/etc/hostname"
printf '127.0.0.1 localhost ${host}\\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 errors=remount-ro 0 1\\nLABEL=kiln-job /srv ext4 ${options} 0 2\\n' >"$root/etc/fstab"
cat >"$root/etc/systemd/system/kiln-job.service" <<'UNIT'
[Unit]
Description=The job of kiln's test-hosts
After=multi-user.target libvirtd.socket
RequiresMountsFor=/srv

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sh /srv/job.sh
StandardOutput=append:/srv/results/job.log
StandardError=append:/srv/results/job.log
ExecStopPost=/bin/sh -c 'if rm /srv/reboot 2>/dev/null; then systemctl --no-block reboot; else systemctl --no-block poweroff; fi'
${service}UNIT
cat >"$root/etc/systemd/system/kiln-job.target" <<'UNIT'
[Unit]
Description=${host === 'host-a' ? 'Host A' : 'Host B'} with its job
Requires=multi-user.target
Wants=kiln-job.service
After=multi-user.target
AllowIsolate=yes
UNIT
ln -sf /etc/systemd/system/kiln-job.target "$root/etc/systemd/system/default.target"
ln -sf /dev/null "$root/etc/systemd/system/serial-getty@ttyS0.service"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily.timer"
ln -sf /dev/null "$root/etc/systemd/system/apt-daily-upgrade.timer"
# Nothing to bring up to date at the first boot: ldconfig alone takes a minute, emulated.
touch "$root/etc/.updated" "$root/var/.updated"
`;
}

/** Systemd, cgroup v2, AppArmor. */
const apparmor: HostKind = {
  name: 'a',
  title: 'host A (AppArmor)',
  packages: [...COMMON, 'apparmor'],
  customize: jobSetup('host-a', 'defaults', ''),
  prepare: '',
  boot: '',
};

/**
 * Systemd, cgroup v2, SELinux enforcing with Debian's own policy. The job runs as root's login shell
 * would. Every file gets its label here, as an installer does it: at the first boot it would take
 * minutes. The second disk has none of its own.
 */
const selinux: HostKind = {
  name: 'b',
  title: 'host B (SELinux, enforcing)',
  packages: [
    ...COMMON,
    'auditd',
    'selinux-policy-default',
    'selinux-utils',
    'policycoreutils',
    'semodule-utils',
  ],
  customize: `${jobSetup(
    'host-b',
    'defcontext=system_u:object_r:usr_t:s0',
    'SELinuxContext=unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023\n',
  )}sed -i 's/^SELINUX=.*/SELINUX=enforcing/; s/^SELINUXTYPE=.*/SELINUXTYPE=default/' "$root/etc/selinux/config"
chroot "$root" setfiles -m -F /etc/selinux/default/contexts/files/file_contexts /
`,
  // Without the module, Debian's policy keeps Node from starting at all (execmem); without that type,
  // which a program has below /opt/kiln/bin, /usr/bin or /usr/local/bin, also in a unit (init_t).
  prepare: 'semodule -i policy/kiln.cil && chcon -t bin_t bin/kiln',
  boot: 'security=selinux selinux=1',
};

export const hostKinds: readonly HostKind[] = [apparmor, selinux];
