/** The kinds of host that scripts/test-hosts can make: what is on their disk, and how they boot. */

/** A kind of host. Both have the same disk: the kernel's command line decides which security module is in force. */
export interface HostKind {
  readonly name: 'a' | 'b';
  readonly title: string;
  /** What its administrator does before kiln can run, for sh, in the checkout. */
  readonly prepare: string;
  /** Added to the kernel's command line. */
  readonly boot: string;
}

/** The Debian packages that make a host such as users have, beside what kiln needs. */
export const HOST_PACKAGES = [
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
  'apparmor',
  ...['auditd', 'selinux-policy-default', 'selinux-utils', 'policycoreutils', 'semodule-utils'],
];

/**
 * Modules of Debian's policy that the hosts have: those of programs that are there, and what these name. semodule reads
 * all there are each time it loads one, which takes more than a minute with the other 300, emulated.
 */
const POLICY_MODULES =
  'apache apt auditadm base brctl bubblewrap cgroup clock container cron crio dbadm dmidecode dnsmasq docker getty gpg ' +
  'guest hostname iptables kubernetes loadkeys logadm logrotate lvm mta netutils ntp podman policykit qemu seunshare ' +
  'secadm shutdown ssh staff su sudo tmpreaper tzdata unconfined unprivuser userhelper virt webadm xdg xguest xserver';

/** For sh, given the empty root of the new system as $1: an initial ramdisk of what the disk needs, no more. */
export const SETUP = `set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n' >"$1/etc/initramfs-tools/conf.d/kiln"
printf 'virtio_pci\nvirtio_blk\next4\n' >"$1/etc/initramfs-tools/modules"
`;

/**
 * A script for sh, given the root of the new system as $1. The job is whatever script lies on the second disk; the
 * machine powers off after it, however it ended, unless it has left /srv/reboot: then the machine boots, and runs it
 * again. It runs as root's login shell would.
 */
export const CUSTOMIZE = `set -eu
root=$1
printf '127.0.0.1 localhost host-a host-b\\n' >"$root/etc/hosts"
printf '/dev/vda / ext4 errors=remount-ro 0 1\\n' >"$root/etc/fstab"
cat >"$root/usr/local/sbin/kiln-job" <<'JOB'
#!/bin/sh
options=defaults
[ ! -e /sys/fs/selinux/enforce ] || options=defcontext=system_u:object_r:usr_t:s0
mountpoint -q /srv || mount -o "$options" LABEL=kiln-job /srv
exec /bin/sh /srv/job.sh >>/srv/results/job.log 2>&1
JOB
chmod 755 "$root/usr/local/sbin/kiln-job"
cat >"$root/etc/systemd/system/kiln-job.service" <<'UNIT'
[Unit]
Description=The job of kiln's test-hosts
After=multi-user.target libvirtd.socket

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/usr/local/sbin/kiln-job
ExecStopPost=/bin/sh -c 'if rm /srv/reboot 2>/dev/null; then systemctl --no-block reboot; \\
  else umount -l /srv; sync; poweroff -ff; fi'
SELinuxContext=unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023
UNIT
cat >"$root/etc/systemd/system/kiln-job.target" <<'UNIT'
[Unit]
Description=A host with its job
Requires=multi-user.target
Wants=kiln-job.service
After=multi-user.target
AllowIsolate=yes
UNIT
ln -sf /etc/systemd/system/kiln-job.target "$root/etc/systemd/system/default.target"
for unit in serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \\
  e2scrub_reap.service libvirt-guests.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Nothing to bring up to date at the first boot: ldconfig alone takes a minute, emulated.
touch "$root/etc/.updated" "$root/var/.updated"
# Packages that are installed later are whole, and not written to a disk that lasts.
rm -f "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/kiln"
# libvirt's profiles alone: those of a hundred programs that are not there take as long as all else at boot.
find "$root/etc/apparmor.d" -maxdepth 1 -type f ! -name '*libvirt*' -delete
sed -i 's/^SELINUX=.*/SELINUX=enforcing/; s/^SELINUXTYPE=.*/SELINUXTYPE=default/' "$root/etc/selinux/config"
modules=$root/var/lib/selinux/default/active/modules
for module in "$modules"/100/*; do
  case ' ${POLICY_MODULES} ' in *" \${module##*/} "*) ;; *) rm -r "$module" ;; esac
done
rm -f "$modules"/disabled/*
chroot "$root" semodule -n -B
`;

/**
 * Gives every file its label for SELinux, as an installer does it: at the first boot it would take minutes. The second
 * disk has none of its own.
 */
export const LABEL = ['setfiles', '-m', '-F', '/etc/selinux/default/contexts/files/file_contexts'];

/** Added to the command line of the smoke: the .deb's kiln has a libvirtd of its own. */
export const NO_SYSTEM_LIBVIRTD = ['.service', '.socket', '-ro.socket', '-admin.socket']
  .map((unit) => `systemd.mask=libvirtd${unit}`)
  .join(' ');

/** Systemd, cgroup v2, AppArmor. auditd would keep what AppArmor refuses out of the kernel's log. */
const apparmor: HostKind = {
  name: 'a',
  title: 'host A (AppArmor)',
  prepare: '',
  boot: 'systemd.hostname=host-a security=apparmor systemd.mask=auditd.service',
};

/** Systemd, cgroup v2, SELinux enforcing with Debian's own policy. */
const selinux: HostKind = {
  name: 'b',
  title: 'host B (SELinux, enforcing)',
  // Without the module, Debian's policy keeps Node from starting at all (execmem); without that type,
  // which a program has below /opt/kiln/bin, /usr/bin or /usr/local/bin, also in a unit (init_t).
  prepare: 'semodule -i policy/kiln.cil && chcon -t bin_t bin/kiln bin/kilnd',
  boot: 'systemd.hostname=host-b security=selinux selinux=1',
};

export const hostKinds: readonly HostKind[] = [apparmor, selinux];
