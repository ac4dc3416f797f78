/**
 * Every fault is really there: made in a mount (or user) namespace that ends with the doctor, or by
 * the rights it runs with. What the doctor says of it is compared with what was done.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';

const top = join(import.meta.dirname, '../..');
// bin/kiln is in dist/, which some faults hide; `kiln doctor` is no work for the daemon.
const kiln = join(top, 'bin/kiln-node');

interface Fault {
  readonly title: string;
  readonly check: string;
  /** Shell commands that break something; `$D` is an empty folder, KILN_STATE is `$D/state`. */
  readonly setup?: string;
  /** The command that starts what follows it with other rights or namespaces. */
  readonly under?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly status: 'ok' | 'warn' | 'fail';
  /** Found in what the doctor says. */
  readonly says: RegExp;
}

const WITHOUT_CALLS = join(import.meta.dirname, 'without-calls-child.ts');

/** Makes /etc the namespace's own: what is written there is seen by nobody else. */
const privateEtc = `mkdir $D/upper $D/work
  mount -t overlay -o lowerdir=/etc,upperdir=$D/upper,workdir=$D/work o /etc`;

/** A group of its own for the tests: this machine may have one of the name. */
function withGroup(members: string): string {
  return `sed -i '/^kiln:/d' /etc/group; echo kiln:x:4711:${members} >> /etc/group`;
}

/** Runs a command as nobody, after `setup` has broken something in a /etc of its own. */
function asUser(groups = '--clear-groups', setup = ':'): string[] {
  // One capability is left, to reach a checkout in a folder that only root may pass.
  const rights = ['--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'];
  const user = ['setpriv', '--reuid=65534', '--regid=65534', groups, ...rights];
  const script = `set -eu; D=/mnt; mount -t tmpfs tmpfs $D; ${privateEtc}
    ${setup}; exec "$@"`;
  return ['unshare', '--mount', 'sh', '-c', script, 'sh', ...user];
}

/** An entry for s390x, as the kernel shows it. */
function emulator(flags: string): string {
  const magic = '7f454c4602020100000000000000000000020016';
  const mask = 'ffffffffffffff00fffffffffffffffffffeffff';
  const lines = ['enabled', 'interpreter /usr/bin/qemu-s390x-static', `flags: ${flags}`];
  const text = [...lines, 'offset 0', `magic ${magic}`, `mask ${mask}`].join('\\n');
  return `mount -t tmpfs tmpfs /proc/sys/fs/binfmt_misc; cd /proc/sys/fs/binfmt_misc
    echo enabled >status; printf '${text}\\n' >qemu-s390x; cd /`;
}

/** A state that is not there. */
const ELSEWHERE = '/srv/no-kiln';

const faults: readonly Fault[] = [
  {
    title: 'a user who is not root',
    check: 'privileges',
    under: asUser(),
    status: 'warn',
    says: /uid 65534.*“users” tells.*as root/s,
  },
  {
    title: 'a user where there is no group',
    check: 'users',
    under: asUser('--clear-groups', `sed -i '/^kiln:/d' /etc/group`),
    status: 'fail',
    says: /no group kiln.*user 65534 \(nobody\).*groupadd --system kiln && usermod -aG kiln nobody/s,
  },
  {
    title: 'a user who is not in the group',
    check: 'users',
    under: asUser('--clear-groups', withGroup('')),
    status: 'fail',
    says: /user 65534 \(nobody\), are not in it.*usermod -aG kiln nobody.*log in again/s,
  },
  {
    title: 'a user who came into the group after the session began',
    check: 'users',
    under: asUser('--clear-groups', withGroup('nobody')),
    status: 'fail',
    says: /came into it after this session began.*newgrp kiln/s,
  },
  {
    title: 'a user of the group who names a state',
    check: 'users',
    under: asUser('--groups=4711', withGroup('nobody')),
    status: 'fail',
    says: /KILN_STATE\) is for root only.*unset KILN_STATE/s,
  },
  {
    title: 'a user of the group, and no kilnd',
    check: 'users',
    setup: 'unset KILN_STATE',
    under: asUser('--groups=4711', `${withGroup('nobody')}; mount -t tmpfs tmpfs /run`),
    status: 'fail',
    says: /cannot be reached at \/run\/kiln\/io.kiln.*ENOENT/s,
  },
  {
    title: 'root without CAP_SYS_ADMIN',
    check: 'privileges',
    under: ['setpriv', '--bounding-set=-sys_admin', '--inh-caps=-sys_admin'],
    status: 'fail',
    says: /root without SYS_ADMIN/,
  },
  {
    title: 'root without CAP_SETPCAP',
    check: 'privileges',
    under: ['setpriv', '--bounding-set=-setpcap', '--inh-caps=-setpcap'],
    status: 'fail',
    says: /root without SETPCAP/,
  },
  {
    title: 'root without capabilities that nothing needs',
    check: 'privileges',
    under: [
      'setpriv',
      '--bounding-set=-kill,-net_admin,-sys_chroot,-setfcap',
      '--inh-caps=-kill,-net_admin,-sys_chroot,-setfcap',
    ],
    status: 'ok',
    says: /all capabilities that kiln needs/,
  },
  ...['keyctl', 'pidfd_open', 'pidfd_getfd', 'fsopen', 'move_mount', 'setns'].map((call) => ({
    title: `a filter that refuses ${call}`,
    check: 'system-calls',
    under: ['setpriv', '--no-new-privs', process.execPath, WITHOUT_CALLS, call],
    status: 'fail' as const,
    says: new RegExp(`refused: ${call} \\(EPERM\\).*seccomp`, 's'),
  })),
  {
    title: 'a /proc of which a part is masked',
    check: 'proc-and-sys',
    setup: 'mount -t tmpfs -o ro tmpfs /proc/fs',
    status: 'fail',
    says: /refused: proc \(EPERM\).*unmask=ALL/s,
  },
  {
    title: 'a /sys that is read-only',
    check: 'proc-and-sys',
    setup: 'mount -o remount,ro,bind /sys',
    status: 'fail',
    says: /refused: sysfs \(EPERM\).*remount,rw \/sys/s,
  },
  {
    title: 'no /dev/fuse',
    check: 'devices',
    setup: 'mount -t tmpfs tmpfs /dev',
    status: 'fail',
    says: /\/dev\/fuse: ENOENT.*--device \/dev\/fuse/s,
  },
  {
    title: 'a sandbox that cannot start',
    check: 'sandbox',
    setup: 'mkdir $D/state; mount -o remount,ro,bind /sys',
    status: 'fail',
    says: /cannot start a sandbox: .*sysfs.*`kiln doctor`/s,
  },
  {
    title: 'the root of a user namespace',
    check: 'privileges',
    under: ['unshare', '--user', '--map-root-user'],
    status: 'fail',
    says: /root of a user namespace/,
  },
  {
    title: 'no libvirtd on PATH',
    check: 'packages',
    setup: `mkdir $D/bin
      for f in /usr/sbin/* /usr/bin/*; do
        case $f in */libvirtd) ;; *) [ -e $D/bin/\${f##*/} ] || ln -s $f $D/bin/ ;; esac
      done
      PATH=$D/bin`,
    status: 'fail',
    says: /no libvirtd.*install libvirt-daemon$/s,
  },
  {
    title: 'no Jinja for configurations of mock',
    check: 'packages',
    setup: 'mount -t tmpfs tmpfs /usr/lib/python3/dist-packages/jinja2',
    status: 'warn',
    says: /no .*jinja2.*kiln-mock cannot evaluate.*install python3-jinja2$/s,
  },
  {
    title: 'a librpmio that cannot be loaded',
    check: 'signatures',
    setup: `mount --bind /dev/null $(readlink -f /usr/lib/*/librpmio.so.10 /usr/lib64/librpmio.so.10 | head -n 1)`,
    status: 'fail',
    says: /librpmio\.so\.10 cannot be used.*no package can be verified.*install librpmio10/s,
  },
  {
    title: 'a guest init that was not compiled',
    check: 'guest-init',
    setup: `cp '${top}/dist/kernel.node' '${top}/dist/kiln' $D; mount --bind $D '${top}/dist'`,
    status: 'fail',
    says: /no .*dist\/kiln-init.*npm run build/s,
  },
  {
    title: 'a guest init that needs libraries',
    check: 'guest-init',
    setup: `cp '${top}/dist/kernel.node' '${top}/dist/kiln' $D; mount --bind $D '${top}/dist'; cp /bin/true $D/kiln-init`,
    status: 'fail',
    says: /needs libraries/,
  },
  {
    title: 'a kernel that is too old',
    check: 'kernel',
    under: ['setarch', '--uname-2.6'],
    status: 'fail',
    says: /Linux 2\.6\.\d+.*5\.19 or newer/s,
  },
  {
    title: 'a kernel without seccomp filters',
    check: 'kernel',
    setup: 'mount --bind /dev/null /proc/sys/kernel/seccomp/actions_avail',
    status: 'fail',
    says: /without seccomp filters/,
  },
  {
    title: 'an emulator that no sandbox finds',
    check: 'emulation',
    setup: emulator('OC'),
    status: 'warn',
    says: /qemu-s390x is registered without the flag F.*images for s390x are refused.*qemu-user-static/s,
  },
  {
    title: 'an emulator that the kernel holds',
    check: 'emulation',
    setup: emulator('OCF'),
    status: 'ok',
    says: /images for x86_64, and through an emulator for s390x/,
  },
  {
    title: 'user namespaces forbidden',
    check: 'namespaces',
    under: ['unshare', '--user', '--map-root-user', '--mount'],
    setup: 'echo 0 > /proc/sys/user/max_user_namespaces',
    status: 'fail',
    says: /user\.max_user_namespaces is 0.*sysctl -w user\.max_user_namespaces/s,
  },
  {
    title: 'few network namespaces allowed',
    check: 'namespaces',
    under: ['unshare', '--user', '--map-root-user', '--mount'],
    setup: 'echo 3 > /proc/sys/user/max_net_namespaces',
    status: 'warn',
    says: /user\.max_net_namespaces is 3.*no more than a few sandboxes can run at a time/s,
  },
  {
    title: 'a state folder too small for an image',
    check: 'state-directory',
    setup: 'mkdir $D/state; mount -t tmpfs -o size=64m tmpfs $D/state',
    status: 'fail',
    says: /tmpfs, 0\.1 GiB free.*too little space/s,
  },
  {
    title: 'a state folder with room for few images',
    check: 'state-directory',
    setup: 'mkdir $D/state; mount -t tmpfs -o size=4g tmpfs $D/state',
    status: 'warn',
    says: /tmpfs, 4\.0 GiB free/,
  },
  {
    title: 'a state folder without inodes left',
    check: 'state-directory',
    setup: 'mkdir $D/state; mount -t tmpfs -o size=4g,nr_inodes=1000 tmpfs $D/state',
    status: 'fail',
    says: /too little inodes/,
  },
  {
    title: 'a state folder on a noexec mount',
    check: 'state-directory',
    setup: 'mkdir $D/state; mount -t tmpfs -o size=20g,noexec tmpfs $D/state',
    status: 'fail',
    says: /noexec.*mount -o remount,exec/s,
  },
  {
    title: 'a state folder that is read-only',
    check: 'state-directory',
    setup: 'mkdir $D/state; mount -t tmpfs -o size=20g,ro tmpfs $D/state',
    status: 'fail',
    says: /state is read-only/,
  },
  {
    title: 'a state folder behind a folder that only its owner may pass',
    check: 'state-directory',
    setup:
      'mount -t tmpfs -o size=20g,mode=755 tmpfs $D; mkdir -m 700 $D/home; KILN_STATE=$D/home/state',
    status: 'fail',
    says: /home is closed to other users.*chmod o\+x/s,
  },
  {
    title: 'a state folder that everybody may write to',
    check: 'state-directory',
    setup: 'mount -t tmpfs -o size=20g,mode=755 tmpfs $D; mkdir -m 777 $D/state',
    status: 'fail',
    says: /writable by others.*chmod o-w/s,
  },
  {
    title: 'folders of the store that others may write to',
    check: 'state-directory',
    setup: `mount -t tmpfs -o size=20g,mode=755 tmpfs $D; mkdir -p $D/state/store/images $D/state/jobs
      chmod 777 $D/state/store $D/state/store/images; chmod 770 $D/state/jobs`,
    status: 'fail',
    says: /others may replace .*chmod go-w (\S+\/state\/(jobs|store|store\/images)( |$)){3}/s,
  },
  {
    title: 'a state folder of another user',
    check: 'state-directory',
    setup: 'mount -t tmpfs -o size=20g,mode=755 tmpfs $D; mkdir $D/state; chown 1000 $D/state',
    status: 'fail',
    says: /belongs to uid 1000.*chown root: \S+\/state$/s,
  },
  {
    title: 'a file system without ID-mapped mounts',
    check: 'id-mapped-mounts',
    setup: `mkdir $D/all $D/state; mount -t tmpfs tmpfs $D/all
      mkdir $D/all/lower $D/all/upper $D/all/work
      mount -t overlay -o lowerdir=$D/all/lower,upperdir=$D/all/upper,workdir=$D/all/work o $D/state`,
    status: 'fail',
    says: /overlay below .*set KILN_STATE to a file system with ID-mapped mounts/s,
  },
  {
    title: 'a tmpfs, which takes ID maps',
    check: 'id-mapped-mounts',
    setup: 'mkdir $D/state; mount -t tmpfs tmpfs $D/state',
    status: 'ok',
    says: /tmpfs below .* takes an ID map/,
  },
  {
    title: 'a file system that overlayfs refuses',
    check: 'overlay',
    setup: 'KILN_STATE=/proc/kiln',
    status: 'fail',
    says: /overlayfs on proc/,
  },
  {
    title: 'a state to be made beside something mounted',
    check: 'overlay',
    setup: 'mkdir -p $D/lib/other; mount -t tmpfs tmpfs $D/lib/other; KILN_STATE=$D/lib/kiln',
    status: 'ok',
    says: /overlayfs on .*, in a user namespace/,
  },
  {
    title: 'a host whose own programs do not run in a sandbox',
    check: 'host-image',
    setup: 'echo >$D/true; mount --bind $D/true /usr/bin/true',
    status: 'warn',
    says: /cannot run a command in it: true.*-r host` does not work.*docs\/configuration\.md/s,
  },
  {
    title: 'a new state without images or packages for them',
    check: 'images',
    setup: 'mkdir $D/state; KILN_STATE=$D/state; unset KILN_FIXTURES',
    status: 'warn',
    says: /no image, and no packages.*scripts\/fixtures.* --set build.*kiln image pull/s,
  },
  {
    title: 'no cgroups at all',
    check: 'cgroups',
    setup: 'umount -R -l /sys/fs/cgroup',
    status: 'fail',
    says: /no cgroup hierarchy is mounted.*mount -t cgroup2/s,
  },
  {
    title: 'a mount of cgroups with favordynmods',
    check: 'cgroups',
    setup:
      'mkdir $D/groups; mount -t cgroup -o none,name=kiln-doctor-$$,favordynmods none $D/groups',
    status: 'ok',
    says: /favordynmods: processes are moved between cgroups without a wait/,
  },
  {
    title: 'cgroups that cannot be written',
    check: 'cgroups',
    setup: `findmnt -rno TARGET -t cgroup,cgroup2 | while read -r path; do
      mount -o remount,ro,bind $path; done`,
    status: 'fail',
    says: /no cgroup can be made in .*remount,rw/s,
  },
  {
    title: 'cgroup v2 without its memory controller',
    check: 'cgroups',
    setup: `umount -R -l /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
      sed 's/memory//' /sys/fs/cgroup/cgroup.controllers > $D/controllers
      mount --bind $D/controllers /sys/fs/cgroup/cgroup.controllers`,
    status: 'fail',
    says: /starts no sandbox without the controller memory/,
  },
  {
    title: 'no pids controller',
    check: 'cgroups',
    setup: `if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        sed 's/pids//' /sys/fs/cgroup/cgroup.controllers > $D/controllers
        mount --bind $D/controllers /sys/fs/cgroup/cgroup.controllers
      else umount /sys/fs/cgroup/pids; fi`,
    status: 'warn',
    says: /without pids there is no --pids/,
  },
  {
    title: 'an account with an id of the block',
    check: 'id-ranges',
    setup: `${privateEtc}; echo mallory:x:1879150000:100::/:/bin/sh >> /etc/passwd`,
    status: 'fail',
    says: /belong to mallory \(\/etc\/passwd\)/,
  },
  {
    title: 'a user who was given ids of the block',
    check: 'id-ranges',
    setup: `${privateEtc}; echo alice:1879000000:65536 >> /etc/subgid`,
    status: 'warn',
    says: /alice \(\/etc\/subgid\) may use ids/,
  },
  {
    title: 'a block of its own that is too small',
    check: 'id-ranges',
    setup: `${privateEtc}; echo kiln:3000000:100 >> /etc/subuid`,
    status: 'fail',
    says: /too small: kiln:3000000:100.*at least 131072/s,
  },
  {
    title: 'a block of its own',
    check: 'id-ranges',
    setup: `${privateEtc}; echo kiln:3000000:655360 >> /etc/subuid`,
    status: 'ok',
    says: /3000000 to 3655359, room for 9 sandboxes/,
  },
  {
    title: 'SELinux without kiln’s policy module',
    check: 'security-modules',
    setup: 'mount -t tmpfs tmpfs /sys/fs; mkdir /sys/fs/selinux; echo 1 > /sys/fs/selinux/enforce',
    status: 'fail',
    says: /SELinux, enforcing.*semodule -i (?:\S|'.*)*kiln\.cil/s,
  },
  {
    title: 'a run folder in which everybody may write',
    check: 'run-directory',
    setup: 'mount -t tmpfs -o mode=777 tmpfs /run',
    status: 'fail',
    says: /mode 777.*chmod 755/s,
  },
  {
    title: 'folders of the run folder in which everybody may write',
    check: 'run-directory',
    setup: `mount -t tmpfs -o mode=755 tmpfs /run
      KILN_STATE=${ELSEWHERE}; run=${statePaths({ KILN_STATE: ELSEWHERE }).run}
      mkdir -p $run/sandboxes; chmod 777 $run $run/sandboxes`,
    status: 'fail',
    says: /others may replace .*chmod go-w \/run\/kiln\/\w+ \/run\/kiln\/\w+\/sandboxes$/s,
  },
  {
    title: 'a run folder that survives a boot',
    check: 'run-directory',
    setup: 'mount -t ramfs -o mode=755 ramfs /run',
    status: 'warn',
    says: /survives the boot/,
  },
  {
    title: 'a remote libvirt',
    check: 'libvirt',
    env: { KILN_URI: 'lxc+ssh://elsewhere/system' },
    status: 'fail',
    says: /remote libvirt.*unset KILN_URI/s,
  },
  {
    title: 'a system libvirtd that does not run',
    check: 'libvirt',
    setup: 'mkdir -p $D/run && mount --bind $D/run /run',
    env: { KILN_URI: 'lxc:///system' },
    status: 'fail',
    says: /lxc:\/\/\/system/,
  },
  {
    title: 'no libvirtd, wherever it is looked for',
    check: 'libvirt',
    setup: `mount -t tmpfs tmpfs /run; mkdir $D/upper $D/work
      mount -t overlay -o lowerdir=/usr/sbin,upperdir=$D/upper,workdir=$D/work o /usr/sbin
      rm /usr/sbin/libvirtd`,
    status: 'fail',
    says: /no libvirtd.*install libvirt-daemon/s,
  },
  {
    title: 'a libvirt without its LXC driver',
    check: 'libvirt',
    setup: `mount -t tmpfs tmpfs /run; mkdir $D/upper $D/work
      for lib in /usr/lib/*/libvirt /usr/lib64/libvirt; do
        [ ! -e $lib/connection-driver/libvirt_driver_lxc.so ] || break; done
      mount -t overlay -o lowerdir=$lib,upperdir=$D/upper,workdir=$D/work o $lib
      rm $lib/connection-driver/libvirt_driver_lxc.so`,
    status: 'fail',
    says: /LXC driver is not installed.*install .*libvirt-daemon-driver-lxc/s,
  },
  {
    title: 'an /etc/passwd without root',
    check: 'libvirt',
    setup: ': >$D/passwd; mount --bind $D/passwd /etc/passwd',
    status: 'fail',
    says: /Failed to find user record for uid '0'/,
  },
];

test.serial(
  'in a chroot the want of namespaces is told once, and others name that check',
  async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'kiln-fault-'));
    const names = ['namespaces', 'proc-and-sys', 'signatures', 'id-mapped-mounts', 'overlay'];
    const script = `mount --make-rprivate /; mkdir $1/root; mount --rbind / $1/root
    exec chroot $1/root env KILN_STATE=$1/state ${kiln} doctor --json ${names.join(' ')}`;
    const unshare = ['--mount', 'sh', '-ec', script, 'sh', folder];
    const { stdout, stderr } = await execa('unshare', unshare, { reject: false });
    await rm(folder, { recursive: true, force: true });
    t.not(stdout, '', stderr);
    const { checks } = JSON.parse(stdout) as {
      checks: Record<'name' | 'status' | 'mend', string>[];
    };
    t.deepEqual(
      checks.map(({ name, status }) => `${name} ${status}`),
      names.map((name) => `${name} fail`),
    );
    const [first, ...others] = checks;
    t.regex(first?.mend ?? '', /leave the chroot/);
    for (const { name, mend } of others) t.regex(mend, /the check `namespaces`/, name);
  },
);

test.serial('a member of the group is told that kilnd does not listen', async (t) => {
  const setup = `${withGroup('nobody')}; mount -t tmpfs tmpfs /run`;
  const [file = '', ...args] = asUser('--groups=4711', setup);
  const env = { KILN_STATE: undefined };
  const ps = await execa(file, [...args, kiln, 'ps'], { env, reject: false });
  t.is(ps.exitCode, 125);
  t.regex(ps.stderr, /^kiln: kilnd does not listen at \/run\/kiln\/io\.kiln \[E_NO_DAEMON\]\n/);
});

for (const fault of faults) {
  // One at a time: all at once would starve what runs beside them.
  test.serial(`${fault.check}: ${fault.title}`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), 'kiln-fault-'));
    try {
      await execa('chmod', ['755', folder]);
      const script = `set -eu; D=$1; export KILN_STATE=$D/state; ${fault.setup ?? ':'}
        export PATH; shift; exec "$@"`;
      const [file = 'unshare', ...args] = fault.under ?? ['unshare', '--mount'];
      const command = [kiln, 'doctor', '--json', fault.check];
      const result = await execa(file, [...args, 'sh', '-c', script, 'sh', folder, ...command], {
        env: { KILN_URI: undefined, ...fault.env },
        reject: false,
      });
      t.true(result.stdout.startsWith('{'), result.stderr);
      const { ok, checks } = JSON.parse(result.stdout) as {
        ok: boolean;
        checks: { status: string; found: string; problem?: string; mend?: string }[];
      };
      const [check] = checks;
      const said = [check?.found, check?.problem, check?.mend].filter(Boolean).join('\n');
      t.is(check?.status, fault.status, said);
      t.regex(said, fault.says);
      t.is(ok, fault.status !== 'fail');
      t.is(result.exitCode, fault.status === 'fail' ? 1 : 0);
      if (fault.status !== 'ok') t.truthy(check?.mend, 'it says how to mend it');
    } finally {
      const paths = statePaths({ KILN_STATE: join(folder, 'state') });
      await stopEmbeddedDaemon(paths);
      await rm(folder, { recursive: true, force: true });
      await rm(paths.run, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    }
  });
}
