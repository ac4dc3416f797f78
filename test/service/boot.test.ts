import { existsSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { cgroupHierarchies } from '../../src/host/cgroup/cgroup.ts';
import { instanceFiles } from '../../src/service/lifecycle/store.ts';
import { KILN, PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';
import { type ServiceState, serviceState } from './service-state.ts';

let state: ServiceState;
let port: number;

test.before(async () => {
  state = await serviceState();
  port = await freePort();
});
test.after.always(() => state[Symbol.asyncDispose]());

const service = (...args: readonly string[]) => state.service(...args);
const inside = (...command: readonly string[]) => state.inside('whole', ...command);
const statusOf = (name: string) => state.statusOf(name);

/** Waits until the log has a line: the journal writes to the console by and by. */
const logHas = (line: RegExp) =>
  eventually(async () => line.test((await service('logs', 'whole')).stdout));

const answer = async () =>
  (await execa('curl', ['-s', '-o', '/dev/null', '-w', '%{http_code}', `http://127.0.0.1:${port}`]))
    .stdout;

test.serial('systemd boots in the sandbox, runs the requested unit, and says so', async (t) => {
  const made = await service(
    ...['create', '--boot', '-r', 'debian-systemd', '-u', 'apache2.service', '-C'],
    ...['-p', `${port}:80`, 'whole'],
  );
  t.is(made.exitCode, 0, made.stderr);
  const started = await service('start', 'whole');
  t.is(started.exitCode, 0, started.stderr);
  t.is(await answer(), '200');
  // What kiln reports is what the sandbox's own tools say.
  t.is(await inside('systemctl', 'is-system-running'), 'running');
  t.is(await inside('cat', '/proc/1/comm'), 'systemd');
  const main = await inside('systemctl', 'show', '--value', '-p', 'MainPID', 'apache2.service');
  const status = (await statusOf('whole'))!;
  t.is(status.state, 'running');
  t.deepEqual(
    status.units.map(({ name, state, mainPid }) => [name, state, String(mainPid)]),
    [['apache2.service', 'active', main]],
  );
  // Nothing of what a whole system has fails in a sandbox.
  await inside('systemctl', 'start', 'multi-user.target');
  t.is(await inside('systemctl', 'is-system-running'), 'running');
  // Its journal is kiln's log.
  await logHas(/console: .*Started apache2\.service/);
});

test.serial('a booted system has its own cgroups, below the sandbox’s on the host', async (t) => {
  const { initPid, sandbox } = (await statusOf('whole'))!;
  const unified = cgroupHierarchies().find(({ version }) => version === 2)!;
  const lines = (await readFile(`/proc/${initPid}/cgroup`, 'utf8')).split('\n');
  const group = lines.find((line) => line.startsWith('0::'))!.slice(3);
  t.true(group.includes(sandbox) || group.endsWith('kiln-boot'), group);
  const [, base] = /^\s*0\s+(\d+)/.exec(await readFile(`/proc/${initPid}/uid_map`, 'utf8')) ?? [];
  t.is((await stat(join(unified.path, group))).uid, Number(base));
  t.true(existsSync(join(unified.path, group, 'system.slice/apache2.service/cgroup.procs')));
  // No controller: a system in a sandbox cannot undo the sandbox's limits, nor has it any of its own.
  t.is((await readFile(join(unified.path, group, 'cgroup.controllers'), 'utf8')).trim(), '');
  t.not((await stat(join(unified.path, group, '..'))).uid, Number(base));
  const most = await readFile(join(unified.path, group, 'cgroup.max.descendants'), 'utf8');
  t.is(most.trim(), '4096');
});

/** Run by the systemd itself, with all that it has: each must fail, but the first. */
const ATTEMPTS = [
  // The control: it may mount.
  'mount -t tmpfs none /mnt',
  'unshare --user true',
  'unshare --user --map-root-user true',
  'mount -t sysfs none /mnt',
  'mount -t cgroup -o none,name=mine none /mnt',
  'mkdir /sys/fs/cgroup/../../../sys/fs/escape',
  'echo 1 > /sys/fs/cgroup/../cgroup.procs',
  'echo +memory > /sys/fs/cgroup/cgroup.subtree_control',
  'echo max > /sys/fs/cgroup/cgroup.max.descendants',
  'echo x > /proc/sys/kernel/core_pattern',
  'umount /proc/sys; mount -o remount,rw /proc; echo x > /proc/sys/kernel/core_pattern',
  'umount /proc/kcore; head -c 1 /proc/kcore | grep -q .',
  'echo b > /proc/sysrq-trigger',
  'mknod /root/disk b 7 0',
  'mknod /root/mem c 1 1 && head -c 1 /root/mem',
  'umount -l /usr; mount -o remount,rw /usr && touch /usr/lib/x && false',
  'swapoff -a && swapon /dev/null',
  'dmesg',
  'ps ax | grep -q [k]iln-init',
  'ls /.kiln',
];

test.serial('root of a booted system stays in the sandbox', async (t) => {
  const { etc } = instanceFiles(state.paths, 'whole');
  const script = ATTEMPTS.map((attempt) => `(${attempt}) >/dev/null 2>&1; echo $?`).join('\n');
  await writeFile(join(etc, 'attempts.sh'), `${script}\n`);
  await writeFile(
    join(etc, 'systemd/system/attempts.service'),
    `[Service]\nType=oneshot\nExecStart=/bin/sh /etc/attempts.sh\nStandardOutput=file:/var/log/attempts\n`,
  );
  await inside('systemctl', 'daemon-reload');
  await inside('systemctl', 'start', 'attempts.service');
  const statuses = (await inside('cat', '/var/log/attempts')).split('\n');
  t.is(statuses.length, ATTEMPTS.length);
  t.is(statuses[0], '0', 'it can mount');
  for (const [index, attempt] of ATTEMPTS.entries()) {
    if (index > 0) t.not(statuses[index], '0', attempt);
  }
  // What it did to itself, if anything, the image has not seen.
  const { image } = (await statusOf('whole'))!;
  t.false(existsSync(join(state.paths.images, image, 'tree/usr/lib/x')));
  // Commands that are run in it have not even that.
  t.not((await service('execute', 'whole', '--', 'mount', '-t', 'tmpfs', 'x', '/mnt')).exitCode, 0);
});

test.serial('units can be reloaded and restarted, and come back as systemd says', async (t) => {
  const before = (await statusOf('whole'))!;
  t.is((await service('reload', '--unit', 'apache2.service')).stdout, 'whole: reloaded');
  t.is((await statusOf('whole'))?.units[0]?.mainPid, before.units[0]?.mainPid);
  await logHas(/Reloaded apache2\.service/);
  t.is((await service('restart', '--unit', 'apache2.service', 'whole')).exitCode, 0);
  const restarted = (await statusOf('whole'))!;
  t.not(restarted.units[0]?.mainPid, before.units[0]?.mainPid);
  // apache2.service has Restart=on-abort.
  await inside('systemctl', 'kill', '-s', 'KILL', 'apache2.service');
  await eventually(async () => {
    const [unit] = (await statusOf('whole'))?.units ?? [];
    return unit?.state === 'active' && unit.restarts === 1;
  });
  t.is(await answer(), '200');
  t.is((await statusOf('whole'))?.sandbox, before.sandbox);
});

test.serial('a booted system can reboot into a new sandbox, and power off for good', async (t) => {
  const before = (await statusOf('whole'))!;
  await inside('touch', '/var/lib/stays');
  await service('execute', 'whole', '--', 'systemctl', 'reboot');
  const after = await eventually(async () => {
    const status = await statusOf('whole');
    return status?.state === 'running' && status.sandbox !== before.sandbox && status;
  });
  t.false(existsSync(`/proc/${before.initPid}`));
  t.is(await answer(), '200');
  await inside('test', '-e', '/var/lib/stays');
  await service('execute', 'whole', '--', 'systemctl', 'poweroff');
  await eventually(async () => (await statusOf('whole')) === undefined);
  await eventually(async () => !existsSync(`/proc/${after.initPid}`));
  await eventually(async () => {
    const { stdout } = await service('list', '--json', 'whole');
    return JSON.parse(stdout)[0].outcome?.state === 'finished';
  });
  // libvirtd removes its cgroups a moment after the domain's end.
  const cgroups = () => execa('find', ['/sys/fs/cgroup', '-name', `*${after.sandbox}*`]);
  await eventually(async () => (await cgroups()).stdout === '');
  // A stop is a shutdown: units are told.
  t.is((await service('start', 'whole')).exitCode, 0);
  t.is((await service('stop', 'whole')).exitCode, 0);
  const log = (await service('logs', 'whole')).stdout;
  t.regex(log.slice(log.lastIndexOf('kiln: stopping whole')), /systemd ended with signal SIGINT/);
});

test.serial('without systemd in the image, or cgroups on the host, kiln says so', async (t) => {
  const refused = await service('create', '--boot', '-r', 'debian-minimal', 'half');
  t.is(refused.exitCode, 125);
  t.regex(refused.stderr, /E_NO_SYSTEMD|no systemd to boot/);
  const command = await service('create', '--boot', '-r', 'debian-systemd', 'half', '--', 'true');
  t.regex(command.stderr, /a systemd runs units, no command/);
  const hierarchies = cgroupHierarchies();
  if (hierarchies.every(({ version }) => version === 2)) return;
  // A host as if it had cgroup v1 only.
  const unified = hierarchies.filter(({ version }) => version === 2).map(({ path }) => path);
  const script = `umount ${unified.join(' ')}; exec "$@"`;
  const without = await execa(
    'unshare',
    ['--mount', 'sh', '-c', script, 'sh', KILN, 'service', 'start', 'whole'],
    { env: state.env, reject: false, stdin: 'ignore', timeout: 100_000 * PATIENCE },
  );
  t.is(without.exitCode, 125);
  t.regex(without.stderr, /no unified cgroup hierarchy/);
});
