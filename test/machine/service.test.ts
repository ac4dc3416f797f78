/** Services whose command or units run in a machine. One is booted here: an emulated one takes long. */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import anyTest from 'ava';
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import { Tree } from '../../src/service/lifecycle/tree.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { serviceState } from '../service/service-state.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';
import { long } from '../support/long.ts';
import { processesNaming } from '../support/processes.ts';

const test = anyTest.serial;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await service('stop', 'web');
  await service('stop', 'units');
  await state[Symbol.asyncDispose]();
});

const VM = ['--isolation', 'vm', '--allow-missing', 'kvm'];

const service = (...args: readonly string[]) =>
  state.kiln(['service', ...args], { timeout: 240_000 * PATIENCE });

async function statusOf(name: string): Promise<ServiceStatus | undefined> {
  const { stdout } = await service('list', '--json', name);
  return (JSON.parse(String(stdout)) as { status?: ServiceStatus }[])[0]?.status;
}

async function pageAt(port: number): Promise<string> {
  const again = ['--retry', '30', '--retry-all-errors', '--retry-delay', '1'];
  return (await execa('curl', ['-s', ...again, `http://127.0.0.1:${port}/`])).stdout;
}

/** As libvirt lists them. */
async function machineNames(): Promise<string[]> {
  const { machineUri } = embeddedFiles(state.paths);
  const { stdout } = await execa('virsh', ['-q', '-c', machineUri, 'list', '--name']);
  return stdout.split('\n').filter(Boolean);
}

/** What a service in a machine cannot have, and what says so. */
const REFUSED: readonly (readonly [readonly string[], RegExp])[] = [
  [['--boot', 'x'], /no control group that a systemd needs/],
  [['-s', 'none', 'x', '--', 'sleep', '9'], /a label could hold/],
  [['-i', '32M', 'x', '--', 'sleep', '9'], /no ext4 image for its \/var \[E_MACHINE\]/],
];

test('what a service in a machine cannot have is refused by name, and nothing is made', async (t) => {
  for (const [options, says] of REFUSED) {
    const refused = await service('create', ...VM, '-r', IMAGE, ...options);
    t.is(refused.exitCode, 125, options.join(' '));
    t.regex(String(refused.stderr), says);
  }
  t.is(String((await service('list', '--json')).stdout), '[]');
});

const HTTPD = ['/bin/busybox', 'httpd', '-f', '-p', '80', '-h', '/var/www'];

test('a service in a machine serves a page, keeps its data, and starts its command again', async (t) => {
  t.timeout(400_000 * PATIENCE);
  const port = await freePort();
  const begin = ['--memory', '256M', '-p', `${port}:80`, 'web', '--', ...HTTPD];
  const made = await service('create', ...VM, '-r', IMAGE, ...begin);
  t.is(made.exitCode, 0, String(made.stderr));
  const folder = join(state.paths.services, 'web');
  await mkdir(join(folder, 'var/www'));
  await writeFile(join(folder, 'var/www/index.html'), 'from a machine\n');
  const started = await service('start', 'web');
  t.is(started.exitCode, 0, String(started.stderr));
  t.is(await pageAt(port), 'from a machine');
  const status = await statusOf('web');
  t.deepEqual(await machineNames(), [status?.domain]);
  t.like(status, { state: 'running', restarts: 0, usage: { pids: 1, oomKills: 0 } });

  const main = `${status?.units[0]?.mainPid}`;
  const script = `cat /proc/version; echo told > /var/data
/bin/busybox chown 1000:50 /var/data; stat -c %u /proc/${main}; ps`;
  const inside = await service('execute', 'web', '--', 'sh', '-c', script);
  const [version, owner, ...listed] = String(inside.stdout).split('\n');
  t.not(version, (await readFile('/proc/version', 'utf8')).trim(), String(inside.stderr));
  t.is(owner, '0');
  t.true(listed.some((line) => line.includes(`${main} root`) && line.includes(HTTPD.join(' '))));
  t.is(await readFile(join(folder, 'var/data'), 'utf8'), 'told\n');
  t.like(await stat(join(folder, 'var/data')), { uid: 1000, gid: 50 });

  // The machine itself tells, so its list holds what the command's own ps shows.
  const top = await state.kiln(['top', '--json', status?.sandbox ?? '']);
  t.regex(String(top.stderr), /its own kernel tells this/);
  const [shown, ...others] = JSON.parse(String(top.stdout)) as object[];
  t.like(shown, { pid: Number(main), parent: 1, uid: 0, user: 'root', command: HTTPD });
  t.deepEqual(others, []);
  t.false('hostPid' in (shown ?? {}));

  const more = await service('set', 'web', '--memory', '512M');
  t.regex(String(more.stderr), /was booted with 256\.0M of memory .*\[E_LIMIT\]/);
  t.is((await service('set', 'web', '--memory', '128M')).exitCode, 0);

  t.is((await service('execute', 'web', '--', 'kill', '-9', main)).exitCode, 0);
  await eventually(async () => ((await statusOf('web'))?.restarts ?? 0) === 1);
  t.is(await pageAt(port), 'from a machine');
  t.regex(String((await service('logs', 'web')).stdout), /command\.service: restarting: .*KILL/);

  t.is((await service('stop', 'web')).exitCode, 0);
  // libvirt sees a little later that qemu has ended.
  await eventually(async () => (await machineNames()).length === 0);
  t.deepEqual(processesNaming(state.paths.sandboxes), []);
  t.is((await service('delete', '--yes', 'web')).exitCode, 0);
});

/** A daemon that leaves its parent, with its PID file where only the machine has it. */
const DAEMON = `[Service]
Type=forking
PIDFile=/run/web.pid
ConditionPathExists=/etc/web
ExecStart=/bin/sh -c "/bin/busybox httpd -f -p 80 -h /var/www & echo $$! > /run/web.pid"
`;

long('units run in a machine, and a service whose qemu is killed has another one', async (t) => {
  t.timeout(600_000 * PATIENCE);
  const tree = join(state.paths.images, IMAGE, 'tree');
  await mkdir(join(tree, 'usr/lib/systemd/system'), { recursive: true });
  await writeFile(join(tree, 'usr/lib/systemd/system/daemon.service'), DAEMON);
  const port = await freePort();
  const published = ['-u', 'web.service', '-p', `${port}:80`, 'units'];
  // The link in its /etc leads to the image’s.
  await mkdir(join(tree, 'etc/systemd/system'), { recursive: true });
  await symlink(
    '/usr/lib/systemd/system/daemon.service',
    join(tree, 'etc/systemd/system/web.service'),
  );
  const made = await service('create', ...VM, '-r', IMAGE, ...published);
  t.is(made.exitCode, 0, String(made.stderr));
  const folder = join(state.paths.services, 'units');
  await mkdir(join(folder, 'var/www'));
  await writeFile(join(folder, 'var/www/index.html'), 'of a unit\n');
  await writeFile(join(folder, 'etc/web'), '');
  const started = await service('start', 'units');
  t.is(started.exitCode, 0, String(started.stderr));
  t.is(await pageAt(port), 'of a unit');
  const first = await statusOf('units');
  const told = await service('execute', 'units', '--', 'cat', '/run/web.pid');
  t.is(`${first?.units[0]?.mainPid}`, String(told.stdout).trim());

  const qemu = join(state.paths.sandboxes, first?.sandbox ?? '', 'machine/qemu.pid');
  process.kill(Number(await readFile(qemu, 'utf8')), 'SIGKILL');
  await eventually(async () => {
    const now = await statusOf('units');
    return now?.state === 'running' && now.sandbox !== first?.sandbox;
  });
  t.is(await pageAt(port), 'of a unit');
  t.is((await service('stop', 'units')).exitCode, 0);
  t.deepEqual(processesNaming(state.paths.sandboxes), []);
  t.is((await service('delete', '--yes', 'units')).exitCode, 0);
});

long('Debian’s Apache in a machine serves pages by a published port, as www-data', async (t) => {
  t.timeout(900_000 * PATIENCE);
  await using servers = await serviceState();
  const port = await freePort();
  const made = await servers.service(
    ...['create', ...VM, '-r', 'debian-apache', '-u', 'apache2.service', '-C'],
    ...['-p', `${port}:80`, '--health', ':80/', 'walled'],
  );
  t.is(made.exitCode, 0, made.stderr);
  const started = await servers.service('start', 'walled');
  t.is(started.exitCode, 0, started.stderr);
  // Written by the host, whose folder the machine’s /var is.
  const pages = join(servers.paths.services, 'walled/var/www/html');
  await mkdir(pages, { recursive: true });
  await writeFile(join(pages, 'index.html'), 'of Apache in a machine\n');
  t.is(await pageAt(port), 'of Apache in a machine');
  const head = await execa('curl', ['-sI', `http://127.0.0.1:${port}/`]);
  t.regex(head.stdout, /^HTTP\/1\.1 200 OK\r?\nDate: .*\r?\nServer: Apache/);

  // Many at once, each on a connection of its own, and one large page by its bytes.
  const many = await Promise.all(Array.from({ length: 20 }, async () => await pageAt(port)));
  t.deepEqual(new Set(many), new Set(['of Apache in a machine']));
  const large = randomBytes(20 << 20);
  await writeFile(join(pages, 'large'), large);
  const got = await execa('curl', ['-s', `http://127.0.0.1:${port}/large`], { encoding: 'buffer' });
  t.true(large.equals(got.stdout));

  const told = 'cat /proc/version; ps -eo user= | sort | uniq -c';
  const [version, ...users] = (await servers.inside('walled', 'sh', '-c', told)).split('\n');
  t.not(version, (await readFile('/proc/version', 'utf8')).trim());
  t.true(users.some((line) => line.includes('www-data')));
  const status = await servers.statusOf('walled');
  const { machineUri } = embeddedFiles(servers.paths);
  const listed = await execa('virsh', ['-q', '-c', machineUri, 'list', '--name']);
  t.is(status?.domain, listed.stdout.trim());
  t.like(status, { state: 'running', restarts: 0, units: [{ state: 'active' }] });
  t.regex(await servers.inside('walled', 'cat', '/var/log/apache2/access.log'), /"GET \/large /);

  t.is((await servers.service('stop', 'walled')).exitCode, 0);
  t.is((await execa('curl', ['-s', `http://127.0.0.1:${port}/`], { reject: false })).exitCode, 7);
  t.deepEqual(processesNaming(servers.paths.sandboxes), []);
  t.is((await servers.service('delete', '--yes', 'walled')).exitCode, 0);
});

test('a tree of an image with another /etc follows links from one to the other, and none out', async (t) => {
  const folder = join(state.beside, 'trees');
  const [image, own] = [join(folder, 'image'), join(folder, 'own')];
  for (const name of ['image/usr', 'image/etc', 'image/run', 'own/etc', 'own/var'])
    await mkdir(join(folder, name), { recursive: true });
  await writeFile(join(image, 'usr/unit'), 'of the image');
  await writeFile(join(image, 'etc/old'), 'hidden');
  await writeFile(join(own, 'etc/new'), 'own');
  await writeFile(join(own, 'service.yaml'), 'kiln’s own');
  await symlink('/usr/unit', join(own, 'etc/unit'));
  await symlink('../etc/new', join(image, 'usr/new'));
  await symlink('../../../../../../etc/passwd', join(own, 'etc/out'));
  await symlink('../service.yaml', join(own, 'var/definition'));
  await symlink('loop', join(own, 'etc/loop'));
  using tree = Tree.withOwn(image, own);
  t.is(tree.readText('/etc/unit'), 'of the image');
  t.is(tree.readText('/usr/new'), 'own');
  t.is(tree.readText('/usr/../etc/./new'), 'own');
  for (const path of [
    '/etc/old',
    '/etc/out',
    '/etc/loop',
    '/var/definition',
    '/service.yaml',
    '/none',
  ])
    t.is(tree.readText(path), undefined, path);
  t.true(tree.lstat('/etc/unit')?.isSymbolicLink());
  t.true(tree.stat('/etc/unit')?.isFile());
  t.deepEqual(tree.list('/etc'), ['loop', 'new', 'out', 'unit']);
  t.deepEqual(tree.list('/'), ['etc', 'run', 'usr']);
  t.deepEqual(
    ['/run/x', '/var/run/x', '/tmp', '/etc/run', '/usr/tmp'].filter((path) => tree.lacks(path)),
    ['/run/x', '/var/run/x', '/tmp'],
  );
});
