import { closeSync, fstatSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fc, testProp } from '@fast-check/ava';
import { Ajv2020 } from 'ajv/dist/2020.js';
import test from 'ava';
import { execa } from 'execa';
import { parse } from 'yaml';
import { ownPath } from '../../src/host/files/held.ts';
import { removeTree } from '../../src/host/files/remove-tree.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import { formatPublish, parsePublish } from '../../src/sandbox/policy/network.ts';
import { serviceJsonSchema } from '../../src/service/definition/definition.ts';
import { readDefinition, readOldSandbox } from '../../src/service/definition/definition-file.ts';
import {
  cronFile,
  hostInvocation,
  removeHostUnit,
  sharedUnits,
  writeHostUnits,
} from '../../src/service/definition/host-units.ts';
import { guardianScript } from '../../src/service/lifecycle/guardian.ts';
import { mergeAccounts, planMerge } from '../../src/service/lifecycle/merge-trees.ts';
import { deleteService } from '../../src/service/lifecycle/start-stop.ts';
import type { StoredService } from '../../src/service/lifecycle/store.ts';
import { Tree, type TreeEntry } from '../../src/service/lifecycle/tree.ts';
import { readUnit } from '../../src/service/unit/read-unit.ts';
import { parseUnitFile } from '../../src/service/unit/unit-file.ts';
import {
  commandArguments,
  parseEnvironmentFile,
  parseExecLine,
} from '../../src/service/unit/values.ts';
import { makeDeepTree } from '../support/deep-tree.ts';

const context = {
  hostname: 'h',
  machineId: 'm',
  unit: 'a@b.service',
  user: { name: 'root', uid: 0, home: '/root' },
  group: { name: 'root', gid: 0 },
};

test('the service files that come with kiln are valid, for kiln and for an editor', async (t) => {
  const folder = join(import.meta.dirname, '../../recipes/services');
  const validate = new Ajv2020({ strict: false }).compile(serviceJsonSchema() as object);
  const names = (await readdir(folder)).filter((name) => name.endsWith('.yaml'));
  t.true(names.length >= 4);
  for (const name of names) {
    t.true((await readDefinition(join(folder, name))).units.length > 0);
    t.true(
      validate(parse(await readFile(join(folder, name), 'utf8'))),
      JSON.stringify(validate.errors),
    );
  }
  t.false(validate({ image: 'x', unitz: ['a'] }));
});

test('a file that cannot be removed of one service does not block another', async (t) => {
  const root = await mkdtemp(join(tmpdir(), 'kiln-services-'));
  t.teardown(() => removeTree(root));
  const paths = statePaths({ KILN_STATE: root });
  for (const name of ['deep', 'other']) {
    await mkdir(join(paths.services, name, 'var'), { recursive: true });
  }
  makeDeepTree(join(paths.services, 'deep', 'var', 'tree'), 20);
  await deleteService(paths, 'deep');
  t.deepEqual((await readdir(paths.services)).sort(), ['.lock', 'other']);

  // What somebody who died left, and cannot be removed.
  const busy = join(paths.services, '.broken.1', 'busy');
  await mkdir(busy, { recursive: true });
  await execa('mount', ['-t', 'tmpfs', 'tmpfs', busy]);
  try {
    await deleteService(paths, 'other');
  } finally {
    await execa('umount', [busy]);
  }
  t.deepEqual((await readdir(paths.services)).sort(), ['.broken.1', '.lock']);
});

test('a supervisor that ran for long is restarted without delay', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-guardian-'));
  t.teardown(() => removeTree(directory));
  const [wanted, log] = [join(directory, 'wanted'), join(directory, 'log')];
  await writeFile(wanted, '');
  // Three short runs, a long one, and one that is done; each notes when it begins and ends.
  const run = `read -r up rest </proc/uptime; echo "$up" >>${log}
n=$(wc -l <${log}); [ "$n" -lt 9 ] || exit 0
[ "$n" -lt 7 ] || sleep 3
read -r up rest </proc/uptime; echo "$up" >>${log}; exit 1`;
  const { exitCode } = await execa('sh', [
    '-c',
    guardianScript(3),
    'test',
    wanted,
    'sh',
    '-c',
    run,
  ]);
  t.is(exitCode, 0);
  const times = (await readFile(log, 'utf8')).trim().split('\n').map(Number);
  t.is(times.length, 9);
  const pauses = [2, 4, 6, 8].map((index) => Math.floor(times[index]! - times[index - 1]!));
  // Later and later; after the long run as at the beginning. A busy machine may add a second.
  t.deepEqual([pauses[0]! >= 1, pauses[1]! >= 2, pauses[2]! >= 3], [true, true, true]);
  t.true(pauses[3]! < 4, `${pauses}`);
});

test('a file of virt-sandbox-service is translated whole, or refused with what a service cannot have', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'kiln-old-'));
  try {
    const path = join(directory, 'web.sandbox');
    // As GVirSandboxConfig writes it.
    await writeFile(
      path,
      `[core]
name=web
root=/
arch=x86_64
shell=false

[identity]
uid=33
gid=33

[command]
argv.0=/usr/bin/server
argv.1=--title=a\\sb

[mount.0]
type=GVirSandboxConfigMountHostBind
target=/etc
source=/var/lib/libvirt/filesystems/web/etc

[mount.1]
type=GVirSandboxConfigMountHostBind
target=/srv/data
source=/srv/web

[mount.2]
type=GVirSandboxConfigMountRam
target=/mnt/ram
usage=1024

[network.0]
dhcp=true
source=default
mac=52:54:00:12:34:56

[network.1]
dhcp=false
source=lan
addresses=2
routes=2

[network.1.address.0]
primary=10.0.0.2
prefix=24
broadcast=10.0.0.255

[network.1.address.1]
primary=fd00::2
prefix=64

[network.1.route.0]
prefix=0
gateway=10.0.0.1
target=0.0.0.0

[network.1.route.1]
prefix=16
gateway=10.0.0.9
target=10.7.0.0

[security]
label=system_u:system_r:svirt_lxc_net_t:s0
dynamic=true
`,
    );
    const { name, file, bootTarget } = await readOldSandbox(path);
    t.is(name, 'web');
    t.is(bootTarget, undefined);
    t.deepEqual(file, {
      command: ['/usr/bin/server', '--title=a b'],
      user: '33',
      mounts: [{ source: '/srv/web', target: '/srv/data' }],
      tmpfs: [{ target: '/mnt/ram', size: 1024 }],
      network: [
        { name: 'default', mac: '52:54:00:12:34:56' },
        {
          name: 'lan',
          address: ['10.0.0.2/24', 'fd00::2/64'],
          gateway: '10.0.0.1',
          route: '10.7.0.0/16%10.0.0.9',
        },
      ],
      label: 'dynamic:system_u:system_r:svirt_lxc_net_t:s0',
    });
    const guest = '[mount.3]\ntype=GVirSandboxConfigMountGuestBind\ntarget=/mnt/b\nsource=/srv/a\n';
    const old = await readFile(path, 'utf8');
    await writeFile(path, `${old}\n${guest}`);
    const bound = await readOldSandbox(path);
    t.deepEqual(bound.file['guest-binds'], [{ source: '/srv/a', target: '/mnt/b' }]);
    await writeFile(path, old);
    const image = '[mount.3]\ntype=GVirSandboxConfigMountHostImage\ntarget=/srv/image\nsource=/x\n';
    await writeFile(path, `${old}\n${image}`);
    const shown = (await readOldSandbox(path)).file.mounts?.at(-1);
    t.deepEqual(shown, { source: '/x', target: '/srv/image', image: true });
    const unknown = '[mount.3]\ntype=GVirSandboxConfigMountOther\ntarget=/srv/image\nsource=/x\n';
    const second = '[network.2]\nsource=other\n[network.2.route.0]\ngateway=192.0.2.1\n';
    await writeFile(path, `${old}\n${unknown}\n${second}`);
    await t.throwsAsync(readOldSandbox(path), {
      code: 'E_OLD_SANDBOX',
      message: `${path} has what a service cannot have
  mount.3: a mount of type Other at /srv/image
  network.2: either dhcp, or an IPv4 address and its routes`,
    });
    await writeFile(path, 'image: not-old\n');
    await t.throwsAsync(readOldSandbox(path), { code: 'E_OLD_SANDBOX' });
  } finally {
    await rm(directory, { recursive: true });
  }
});

test('ports are published as people write them', (t) => {
  t.deepEqual(parsePublish('8081:80'), { address: '127.0.0.1', host: 8081, sandbox: 80 });
  t.deepEqual(parsePublish('0.0.0.0:1:2'), { address: '0.0.0.0', host: 1, sandbox: 2 });
  t.deepEqual(parsePublish('[::1]:1:2'), { address: '::1', host: 1, sandbox: 2 });
  for (const text of ['8081:80', '0.0.0.0:1:2', '[::1]:1:2']) {
    t.is(formatPublish(parsePublish(text)!), text);
  }
  for (const text of ['80', '0:80', '80:70000', 'a:b', '53:53/udp', '1:2:3:4']) {
    t.is(parsePublish(text), undefined, text);
  }
});

test('a merge treats each file of /etc as rpm does', (t) => {
  const tree = (files: Readonly<Record<string, string>>): Map<string, TreeEntry> =>
    new Map(Object.entries(files).map(([path, identity]) => [path, { kind: 'file', identity }]));
  const base = tree({
    same: '1',
    upstream: '1',
    mine: '1',
    both: '1',
    forced: '1',
    gone: '1',
    'gone-mine': '1',
    alike: '1',
    deleted: '1',
    'machine-id': '1',
  });
  const mine = tree({
    same: '1',
    upstream: '1',
    mine: '2',
    both: '2',
    forced: '2',
    gone: '1',
    'gone-mine': '2',
    alike: '3',
    own: '1',
    'machine-id': '2',
  });
  const theirs = tree({
    same: '1',
    upstream: '3',
    mine: '1',
    both: '3',
    forced: '3',
    alike: '3',
    deleted: '3',
    fresh: '1',
    'machine-id': '3',
  });
  t.deepEqual(planMerge(base, mine, theirs, new Set(['forced'])), [
    { do: 'rpmnew', path: 'both' },
    { do: 'take', path: 'deleted' },
    { do: 'rpmsave', path: 'forced' },
    { do: 'take', path: 'fresh' },
    { do: 'remove', path: 'gone' },
    { do: 'rpmsave', path: 'gone-mine' },
    { do: 'take', path: 'upstream' },
  ]);
  t.is(mergeAccounts('root:x\nme:x:1\n', 'root:y\nnew:x:2\n'), 'root:x\nme:x:1\nnew:x:2\n');
});

test('units and cron files keep words with spaces and percent signs whole', (t) => {
  const invocation = { command: ['/opt/my kiln/bin/kiln'], env: { KILN_STATE: '/srv/100% kiln' } };
  const units = sharedUnits(invocation);
  t.regex(
    units['kiln@.service'] ?? '',
    /^ExecStart="\/opt\/my kiln\/bin\/kiln" service supervise/m,
  );
  t.regex(units['kiln@.service'] ?? '', /^Environment="KILN_STATE=\/srv\/100%% kiln"$/m);
  t.regex(
    cronFile(invocation),
    /KILN_STATE='\/srv\/100\\% kiln' '\/opt\/my kiln\/bin\/kiln' service/,
  );
  t.regex(units['kiln-logrotate.service'] ?? '', /^Environment="KILN_STATE=\/srv\/100%% kiln"$/m);
});

test('the host’s units use the state, libvirt and Node of the kiln that wrote them', (t) => {
  const KILN_NODE = process.execPath;
  const paths = statePaths({ KILN_STATE: '/srv/kiln' });
  const env = { KILN_URI: 'lxc:///system', HOME: '/root' };
  const found = { KILN_STATE: '/srv/kiln', KILN_URI: 'lxc:///system', KILN_NODE };
  t.deepEqual(hostInvocation(paths, env).env, found);
  t.deepEqual(hostInvocation(statePaths({}), {}).env, { KILN_NODE });
});

testProp(
  'any unit file is read without an exception',
  [fc.string({ unit: 'binary', maxLength: 400 })],
  (t, text) => {
    const { settings } = parseUnitFile(
      'f',
      `[Service]\n${text}\nExecStart=${text}\n[Unit]\n${text}`,
    );
    t.truthy(readUnit(settings, context, []));
    parseEnvironmentFile(text);
    for (const command of parseExecLine(text, context) ?? [])
      commandArguments(command, { A: text });
  },
);

test('the host’s systemd starts and stops all services that run a unit, and no other', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-units-'));
  const service = (name: string, ...units: string[]) =>
    ({ name, definition: { units, description: '' } }) as unknown as StoredService;
  const write = (...services: StoredService[]) =>
    writeHostUnits(services, { command: ['/bin/true'], env: {} }, ownPath(folder));
  // As `kiln service start A B …` does.
  const names = Array.from({ length: 20 }, (_, nth) => `at-once-${nth}`);
  await Promise.all(names.map((name) => write(service(name, `${name}.service`))));
  for (const name of names) t.true(await removeHostUnit(name, folder));
  /** What systemd itself makes of a target: what it starts, and what is stopped with it. */
  const target = async (name: string): Promise<string> => {
    const { stdout } = await execa(
      'systemd-analyze',
      ['verify', '--man=no', join(folder, `kiln-unit-${name}.target`)],
      { env: { SYSTEMD_UNIT_PATH: `${folder}:`, SYSTEMD_LOG_LEVEL: 'debug' }, reject: false },
    );
    const found = stdout.matchAll(/\b(Wants|ConsistsOf): (\S+) \((?:origin|destination)-file/g);
    return [...found]
      .map(([, property, unit]) => `${property} ${unit}`)
      .sort()
      .join();
  };
  try {
    await write(service('web1', 'apache2'), service('web2', 'apache2.service', 'redis@one'));
    const [one, two] = ['kiln@web1.service', 'kiln@web2.service'];
    t.is(await target('apache2'), `ConsistsOf ${one},ConsistsOf ${two},Wants ${one},Wants ${two}`);
    t.is(await target('redis@one'), `ConsistsOf ${two},Wants ${two}`);
    // A unit that a service runs no more, and a service that is gone, with the last of a target.
    await write(service('web2', 'redis@one'));
    t.is(await target('apache2'), `ConsistsOf ${one},Wants ${one}`);
    t.true(await removeHostUnit('web1', folder));
    t.false(await removeHostUnit('web1', folder));
    const left = (await readdir(folder)).filter((name) => /apache2|web/.test(name));
    t.deepEqual(left, ['kiln@web2.service.d']);
  } finally {
    await rm(folder, { recursive: true });
  }
});

// Before the others, which may take the number.
test.serial('closing a tree twice does not close another descriptor', (t) => {
  const tree = Tree.open('/');
  tree[Symbol.dispose]();
  const next = openSync('/dev/null', 'r');
  t.is(next, tree.root, 'the number is used again');
  tree[Symbol.dispose]();
  t.notThrows(() => fstatSync(next));
  closeSync(next);
});

test('what is mounted in a machine of a service is not looked up in its image', async (t) => {
  const image = await mkdtemp(join(tmpdir(), 'kiln-image-'));
  t.teardown(() => removeTree(image));
  await mkdir(join(image, 'etc'));
  using tree = Tree.withOwn(image, image, ['/srv/', '/opt/data']);
  const lacking = [
    '/srv',
    '/srv/x',
    '/usr/../srv/x',
    '/opt/data/a',
    '/run/x',
    '/tmp',
    '/var/run/x',
  ];
  for (const path of lacking) t.true(tree.lacks(path), path);
  for (const path of ['/srvx', '/opt', '/opt/database', '/etc/x', '/usr/srv']) {
    t.false(tree.lacks(path), path);
  }
});
