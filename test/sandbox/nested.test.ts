import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';

const top = join(import.meta.dirname, '../..');
const rpm = join(top, 'fixtures/rpms/compressors/simple-1.0.1-1.i386.rpm');

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** The host's own programs are the sandbox tools that run in the sandbox: read-only, from its /usr. */
const HOST = ['/usr', '/lib', '/lib64', '/etc/ld.so.cache'].filter((path) => existsSync(path));

/** Runs a script in a sandbox that has the host's programs, and kiln and its Node. */
const inSandbox = (script: string, ...options: readonly string[]) =>
  state.kiln([
    ...['run', '-r', IMAGE.slice(0, 12), ...options],
    ...HOST.flatMap((path) => ['--bind', `${path}:${path}:ro`]),
    ...['--bind', `${top}:/kiln:ro`, '--bind', `${process.execPath}:/node:ro`],
    ...['--env', 'PATH=/usr/bin:/bin:/usr/sbin', '--', 'sh', '-c', script],
  ]);

const nested = (script: string, ...options: readonly string[]) =>
  inSandbox(script, '--profile', 'nested', ...options);

const BWRAP =
  'bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev --tmpfs /tmp --die-with-parent';

test.serial('bubblewrap makes a sandbox in a nested sandbox, and not in others', async (t) => {
  const script = `${BWRAP} sh -c 'ls -d /proc/[0-9]*; id -u; touch /tmp/x && ls /tmp'`;
  const inside = await nested(script);
  t.is(inside.exitCode, 0, String(inside.stderr));
  // bwrap's own init and the shell: nobody of the sandbox outside.
  t.is(inside.stdout, '/proc/1\n/proc/2\n1000\nx');
  const without = await inSandbox(script);
  t.not(without.exitCode, 0);
  t.regex(String(without.stderr), /bwrap: .*namespace failed/);
});

test.serial('a netlink socket is of the network namespace of the process that asks', async (t) => {
  // bubblewrap brings up the loopback by one, and ends if it cannot.
  const script = `${BWRAP} cat /proc/net/if_inet6`;
  for (const network of [[], ['--network', 'host', '--allow-host-network']]) {
    const { exitCode, stdout, stderr } = await nested(script, ...network);
    t.is(exitCode, 0, String(stderr));
    t.regex(String(stdout), /^0{31}1 01 .* lo$/, String(network));
  }
});

test.serial('a user and root can make a chroot with its own /proc, and build in it', async (t) => {
  const script = (enter: string) => `
    set -e
    mkdir -p /tmp/root/bin /tmp/root/proc
    cp /bin/busybox /tmp/root/bin/busybox
    for name in sh mount ls wc seq sort; do ln -s busybox /tmp/root/bin/$name; done
    ${enter} sh -c 'PATH=/bin; mount -t proc proc /proc; ls /; echo /proc/[0-9]*
      seq 3 | sort -r > /made'
    cat /tmp/root/made`;
  const enter = 'unshare --map-root-user --mount --pid --fork chroot /tmp/root';
  for (const options of [[], ['--user', 'root']]) {
    const built = await nested(script(enter), ...options);
    t.is(built.exitCode, 0, String(built.stderr));
    t.is(built.stdout, 'bin\nproc\n/proc/1\n3\n2\n1');
  }
  t.not((await inSandbox(script(enter))).exitCode, 0);
});

test.serial('kiln’s own confinement works in a nested sandbox, unprivileged', async (t) => {
  const query = `KILN_STATE=/tmp/k /node /kiln/src/programs/command-line.ts rpm query --json /kiln/${rpm.slice(top.length + 1)}`;
  const inside = await nested(query);
  t.is(inside.exitCode, 0, String(inside.stderr));
  const { stdout: oracle } = await execa('rpm', ['-qp', '--nosignature', '--qf', '%{NEVRA}', rpm]);
  const { name, version, release, arch } = JSON.parse(String(inside.stdout));
  t.is(`${name}-${version}-${release}.${arch}`, oracle);
  // Without the confinement nothing is read: in another sandbox it cannot be made, and that is said.
  const without = await inSandbox(query);
  t.not(without.exitCode, 0);
  t.is(without.stdout, '');
});

test.serial('libvirt cannot nest, and kiln says so', async (t) => {
  const doctor = await nested(
    'KILN_STATE=/tmp/k /node /kiln/src/programs/command-line.ts doctor privileges',
    '--user',
    'root',
  );
  t.is(doctor.exitCode, 1, String(doctor.stderr));
  t.regex(
    String(doctor.stdout),
    /fail\s+privileges\s+root of a user namespace\n\s+wrong: .*libvirt/,
  );
});

test.serial('a nested sandbox is as closed to the host as any other', async (t) => {
  const attempts = `
    try() { if eval "$2" 2>/dev/null >/dev/null; then echo "$1 worked"; else echo "$1 refused"; fi; }
    try sysrq 'echo h > /proc/sysrq-trigger'
    try core_pattern 'echo x > /proc/sys/kernel/core_pattern'
    try panic 'echo 1 > /proc/sys/kernel/panic'
    try modprobe 'echo x > /proc/sys/kernel/modprobe'
    try kcore 'head -c 1 /proc/kcore'
    try kmsg 'head -c 1 /proc/kmsg'
    try mknod 'mknod /tmp/disk b 8 0'
    try sysfs 'mkdir /tmp/sys && mount -t sysfs none /tmp/sys'
    try cgroup 'mkdir /tmp/cg && mount -t cgroup2 none /tmp/cg'
    try cgroup1 'mkdir /tmp/c1 && mount -t cgroup -o memory none /tmp/c1'
    try devtmpfs 'mkdir /tmp/dev && mount -t devtmpfs none /tmp/dev'
    try debugfs 'mkdir /tmp/dbg && mount -t debugfs none /tmp/dbg'
    try image 'mount -o remount,rw,suid,dev /'
    try swap 'swapoff -a && grep -q . /nowhere'
    try clock 'date -s 2001-01-01'
    try init 'ls /proc/1/root/'
    try processes 'test $(ls -d /proc/[0-9]* | wc -l) -gt 12'
    ls /proc/1/root/.kiln 2>/dev/null; true`;
  for (const enter of ['', 'unshare --map-root-user --mount --pid --fork ']) {
    for (const user of ['build', 'root']) {
      const sandbox = await nested(
        `${enter}sh -c '${attempts.replaceAll("'", "'\\''")}'`,
        '--user',
        user,
      );
      t.is(sandbox.exitCode, 0, String(sandbox.stderr));
      const worked = String(sandbox.stdout)
        .split('\n')
        .filter((line) => !line.endsWith('refused'));
      t.deepEqual(worked, [], `${enter}${user}`);
    }
  }
});
