import { randomBytes } from 'node:crypto';
import { chmod, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { changeService } from '../../src/service/lifecycle/change-service.ts';
import { readService } from '../../src/service/lifecycle/store.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
  await create('idle', [], 'sleep', '1000000');
  await ok('start', 'idle');
});

test.after.always(async () => {
  const { stdout } = await service('list', '--json');
  const names = (JSON.parse(String(stdout)) as { name: string }[]).map(({ name }) => name);
  if (names.length > 0) await service('stop', ...names);
  await state[Symbol.asyncDispose]();
});

const service = (...args: readonly string[]) => state.kiln(['service', ...args]);

async function ok(...args: readonly string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await service(...args);
  if (exitCode !== 0) throw new Error(`kiln service ${args.join(' ')}: ${stderr}`);
  return String(stdout);
}

const create = (name: string, options: readonly string[], ...command: readonly string[]) =>
  ok('create', '-r', IMAGE, ...options, name, '--', ...command);

test.serial('a command gets a terminal even if kiln itself has none', async (t) => {
  const script = 'tty; stty size; exit 3';
  const { exitCode, stdout, signal } = await service(
    ...['execute', '-t', 'idle', '--', 'sh', '-c', script],
  );
  t.is(exitCode, 3, String(signal));
  t.regex(String(stdout), /^\/dev\/pts\/\d+\r?\n24 80/);
});

test.serial('a service whose file has a mistake is not stopped for a restart', async (t) => {
  const file = join(state.paths.services, 'idle/service.yaml');
  const text = await readFile(file, 'utf8');
  await writeFile(file, `${text}memory: lots\n`);
  for (const args of [['restart'], ['restart', '--unit', 'command'], ['reload'], ['upgrade']]) {
    const { exitCode, stdout, stderr } = await service(...args, 'idle');
    t.is(`${exitCode}${stdout}`, '125', args.join(' '));
    t.regex(String(stderr), /memory: "lots" is not a size/);
  }
  await writeFile(file, text);
  const image = join(state.paths.services, 'idle/image.json');
  const known = await readFile(image, 'utf8');
  await writeFile(image, '{');
  t.regex(String((await service('restart', 'idle')).stderr), /E_SERVICE_IMAGE/);
  await writeFile(image, known);
  t.regex(await ok('list'), /^idle +running /m);
  t.regex(await ok('restart', 'idle'), /^idle is stopped\nidle is running /);
});

test.serial('a damaged image of /var is not taken for missing loop devices', async (t) => {
  await create('imaged', ['-i', '16M'], 'sleep', '1000000');
  await ok('start', 'imaged');
  await ok('stop', 'imaged');
  const image = join(state.paths.services, 'imaged/var.ext4');
  await writeFile(image, randomBytes(16 << 20));
  const { exitCode, stderr } = await service('start', 'imaged');
  t.is(exitCode, 125);
  t.regex(String(stderr), /cannot mount .*imaged\/var\.ext4/);
  t.true(String(stderr).includes(`it is damaged: \`e2fsck -fy ${image}\``), String(stderr));
});

test.serial('a service without logrotate, or with another mistake, stops no other', async (t) => {
  const tools = join(state.paths.root, 'tools');
  await mkdir(tools);
  await writeFile(join(tools, 'logrotate'), '#!/bin/sh\necho rotated >> /var/rotated\n');
  await chmod(join(tools, 'logrotate'), 0o755);
  const options = ['-m', `${tools}:/opt:ro`, '--env', 'PATH=/bin:/opt'];
  await create('rotating', options, 'sleep', '1000000');
  await ok('start', 'rotating');
  const rotations = () => ok('execute', 'rotating', '--', 'cat', '/var/rotated');
  // What cron and the host's timer call: `idle`, whose image has no logrotate, comes first.
  const all = await service('logrotate');
  t.is(all.exitCode, 0, String(all.stderr));
  t.regex(String(all.stderr), /the image of idle has no logrotate/);
  t.is(await rotations(), 'rotated');
  const quiet = await service('logrotate', '--quiet');
  t.is(`${quiet.exitCode}${quiet.stdout}${quiet.stderr}`, '0');
  const named = await service('logrotate', 'idle', 'rotating');
  t.is(named.exitCode, 125);
  t.is(await rotations(), 'rotated\nrotated\nrotated');
  const upgraded = await service('upgrade', 'nosuch', 'rotating', '--to', IMAGE);
  t.is(upgraded.exitCode, 125);
  t.regex(String(upgraded.stderr), /no service nosuch/);
  t.regex(String(upgraded.stdout), /rotating is current/);
});

/** The limit of memory that the kernel has for a process, whichever cgroup has it. */
async function memoryLimit(pid: number): Promise<string> {
  const lines = (await readFile(`/proc/${pid}/cgroup`, 'utf8')).trim().split('\n');
  const groups = lines.map((line) => line.split(':'));
  const v1 = groups.find(([, names]) => names === 'memory')?.[2];
  const file =
    v1 === undefined
      ? join('/sys/fs/cgroup', groups.find(([id]) => id === '0')?.[2] ?? '', 'memory.max')
      : join('/sys/fs/cgroup/memory', v1, 'memory.limit_in_bytes');
  // A leaf of cgroup v2 may lack the controller that the domain's group has.
  const above = join(file, '../..', file.split('/').at(-1) ?? '');
  return (await readFile(file, 'utf8').catch(() => readFile(above, 'utf8'))).trim();
}

/** What `create` says to a mistake; nothing is left of the service. */
async function refused(options: readonly string[], ...command: readonly string[]): Promise<string> {
  const rest = command.length === 0 ? [] : ['--', ...command];
  const { exitCode, stderr } = await service('create', '-r', IMAGE, ...options, 'wrong', ...rest);
  if (exitCode !== 125) return `exit status ${exitCode}`;
  const listed = await ok('list');
  return listed.includes('wrong') ? 'it is there' : String(stderr);
}

test.serial('mistakes on creating a service are named, and are not internal errors', async (t) => {
  const command = ['sleep', '1'];
  t.regex(await refused([]), /wrong: say what the service runs: -u UNIT, or -- COMMAND/);
  t.regex(await refused(['-u', 'a.service'], ...command), /say what the service runs/);
  t.regex(await refused(['-s', 'bogus'], ...command), /not a label: "bogus"/);
  t.regex(await refused(['--health', ':80x'], ...command), /health\.http: write it as :PORT\/PATH/);
  t.regex(await refused(['--health', ':99999/'], ...command), /health\.http: a port is 1 to 65535/);
  t.regex(await refused(['--boot', '--user', 'root']), /wrong: user: of a command/);
  t.regex(await refused(['--boot', '--workdir', '/tmp']), /wrong: workdir: of a command/);
  t.regex(await refused(['-P', 'nosuch'], ...command), /the image has no package nosuch/);
  // Root of a booted system may mount it writable.
  t.regex(await refused(['--boot', '-u', 'a.service', '-m', '/srv:/m:ro']), /SYS_ADMIN/);
  for (const options of [[], ['--health', ':80x']]) {
    t.notRegex(await refused(options), /internal error|recipe|image schema/);
  }
});

test.serial(
  'a service can do what kiln run can: host name, folder, labels and owners',
  async (t) => {
    const folder = join(state.beside, 'shown');
    await mkdir(folder);
    const options = [
      ...['-m', `${folder}:/shown:z`, '-s', 'none', '--disk', '3M'],
      ...['--hostname', 'called', '--workdir', '/var/tmp', '--user', 'build'],
    ];
    await create('given', options, 'sh', '-c', 'pwd > /shown/pwd; exec sleep 1000000');
    const text = await readFile(join(state.paths.services, 'given/service.yaml'), 'utf8');
    t.regex(text, /relabel: shared/);
    for (const told of [await ok('create', '--help'), await ok('schema')]) t.regex(told, /inherit/);
    t.regex(text, /^label: none$/m);
    // The service's command writes it once the service runs.
    const shown = () => readFile(join(folder, 'pwd'), 'utf8');
    await ok('start', 'given');
    await eventually(async () => (await shown()) === '/var/tmp\n');
    t.is(
      await ok('execute', 'given', '--', 'cat', '/etc/hostname', '/shown/pwd'),
      'called\n/var/tmp',
    );
    // The command's user has what is root's here.
    t.is((await stat(join(folder, 'pwd'))).uid, 0);
    t.is(await ok('execute', 'given', '--', 'stat', '-c', '%U', '/shown/pwd'), 'build');
    // It makes no set-id file of it, on the host.
    const setId = await service('execute', 'given', '--', 'chmod', '4755', '/shown/pwd');
    t.not(setId.exitCode, 0);
    t.is((await stat(join(folder, 'pwd'))).mode & 0o6000, 0);
    // In MB, as the sandbox's statfs(2) has it.
    t.is(await ok('execute', 'given', '--', 'stat', '-fc', '%b*%S', '/tmp'), '768*4096');
    await ok('set', 'given', '--disk', '6M', '--workdir', '/etc');
    await ok('restart', 'given');
    t.is(await ok('execute', 'given', '--', 'stat', '-fc', '%b*%S', '/tmp'), '1536*4096');
    await eventually(async () => (await shown()) === '/etc\n');
    t.is(await ok('execute', 'given', '--', 'cat', '/shown/pwd'), '/etc');
  },
);

test.serial(
  'a limit that the kernel refuses is not in the file, nor are others given with it',
  async (t) => {
    const file = join(state.paths.services, 'idle/service.yaml');
    t.is(await ok('set', 'idle', '--memory', '512M'), 'in force: memory');
    const { initPid } = JSON.parse(await ok('list', '--json', 'idle'))[0].status;
    const before = await readFile(file, 'utf8');
    t.is(await memoryLimit(initPid), String(512 * 2 ** 20));
    const service = await readService(state.paths, 'idle');
    // More than the kernel has numbers for (PID_MAX_LIMIT).
    const refused = changeService(service, { memory: 2 ** 26, pids: 2 ** 22 + 2 });
    await t.throwsAsync(refused, { code: 'E_LIMIT' });
    t.is(await readFile(file, 'utf8'), before);
    t.is(await memoryLimit(initPid), String(512 * 2 ** 20));
    // Up and down, as often as one likes.
    for (const size of [64, 256]) {
      t.is(await ok('set', 'idle', '--memory', `${size}M`), 'in force: memory');
      t.is(await memoryLimit(initPid), String(size * 2 ** 20));
    }
  },
);

test.serial('a limit too small for any sandbox is reported at its place in the file', async (t) => {
  const file = join(state.paths.services, 'idle/service.yaml');
  t.regex(String((await service('set', 'idle', '--memory', '1k')).stderr), /give 4M or more/);
  const before = await readFile(file, 'utf8');
  await writeFile(file, before.replace(/^memory: .*$/m, 'memory: 1024'));
  const { stderr } = await service('restart', 'idle');
  t.regex(
    String(stderr),
    /service\.yaml:\d+:9: memory: "[^"]+" is less than a sandbox takes: give 4M or more/,
  );
  await writeFile(file, before);
  await ok('start', 'idle');
});

test.serial('set refuses unknown settings, no change, and two changes of one', async (t) => {
  const said = async (...options: string[]) => {
    const { exitCode, stderr } = await service('set', 'idle', ...options);
    return `${exitCode} ${stderr}`;
  };
  t.regex(
    await said('--unset', 'memroy'),
    /^125 .*no setting memroy \[E_\w+\]\n.*did you mean memory\?/,
  );
  t.regex(await said(), /^125 .*give a setting to change/);
  t.regex(
    await said('-p', '8081:80', '--unset', 'publish'),
    /^125 .*publish can be set or removed/,
  );
  t.regex(await said('--unset', 'image'), /^125 .*image: is missing/s);
});

test.serial('a missing unit or service is an error', async (t) => {
  const reload = await service('reload', '--unit', 'comand.service');
  t.is(reload.exitCode, 125);
  t.regex(
    String(reload.stderr),
    /has the unit comand\.service \[E_\w+\]\n.*did you mean command\.service\?/,
  );
  const uninstall = await service('uninstall', 'idel');
  t.is(uninstall.exitCode, 125);
  t.regex(String(uninstall.stderr), /no service idel \[E_\w+\]\n.*did you mean idle\?/);
  t.is(await ok('uninstall', 'idle'), 'idle was not installed');
});

test.serial('a clone does not get what must be unique: address, gateway, MAC, ports', async (t) => {
  const network = 'lan,address=192.168.122.7/24,gateway=192.168.122.1,mac=52:54:00:12:34:56,peers';
  await create('net1', ['-N', network, '-p', '8081:80'], 'sleep', '1');
  const { stderr, exitCode } = await service('clone', 'net1', 'net2');
  t.is(exitCode, 0);
  t.regex(String(stderr), /net1’s network\.address, network\.gateway, network\.mac/);
  t.regex(String(stderr), /net2 publishes no port/);
  const [listed] = JSON.parse(await ok('list', '--json', 'net2'));
  t.deepEqual(listed.definition.network, { name: 'lan', peers: true });
  t.deepEqual(listed.definition.publish, []);
  const own = ['-N', 'lan,address=192.168.122.8/24', '-p', '8082:80'];
  const given = await service('clone', 'net1', 'net3', ...own);
  t.is(`${given.exitCode}${given.stderr}`, '0');
  const [third] = JSON.parse(await ok('list', '--json', 'net3'));
  t.is(third.definition.network.address, '192.168.122.8/24');
  t.is(third.definition.network.mac, undefined);
});

test.serial('a list says where each port can be reached, and why a file is broken', async (t) => {
  const port = await freePort();
  await create('open', ['-p', `0.0.0.0:${port}:80`, '-p', '8081:80'], 'sleep', '1000000');
  const ports = async () => /^open +\S+.* (\S+ \S+) +\S+$/m.exec(await ok('list'))?.[1];
  t.is(await ports(), `0.0.0.0:${port}:80 8081:80`);
  const file = join(state.paths.services, 'open/service.yaml');
  await writeFile(file, `${await readFile(file, 'utf8')}memory: lots\n`);
  const { stdout, stderr } = await service('list');
  t.regex(String(stdout), /^open +broken$/m);
  t.regex(String(stderr), /open\/service\.yaml:\d+:9: memory: "lots" is not a size/);
  await ok('delete', '--yes', 'open');
});
