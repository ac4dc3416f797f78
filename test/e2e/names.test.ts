/** Names of hosts in a sandbox. The oracle is glibc's and busybox' own resolver, run inside. */
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { openKiln } from '../support/kiln.ts';
import { createNetwork, virsh } from '../support/libvirt-network.ts';

let state: BusyboxState;
/** The host's own programs and libraries, for what asks glibc. */
const HOST = ['--bind', '/usr:/usr:ro'];
const third = ((process.pid + 100) % 250) + 1;
const address = (last: number) => `10.97.${third}.${last}`;

test.before(async () => {
  state = await busyboxState();
  for (const name of ['lib', 'lib64']) await symlink(`usr/${name}`, join(tree(), name));
});

test.after.always(async () => {
  await virsh(state.paths, 'net-destroy', 'names');
  await state[Symbol.asyncDispose]();
});

const tree = () => join(state.paths.images, IMAGE, 'tree');
const etc = (name = '') => join(tree(), 'etc', name);

const kiln = (args: readonly string[], ...command: readonly string[]) =>
  state.kiln(['run', '-r', IMAGE.slice(0, 12), ...args, '--', ...command], {
    timeout: 180_000 * PATIENCE,
  });

const output = async (args: readonly string[], ...command: readonly string[]) => {
  const { stdout, stderr, exitCode } = await kiln(args, ...command);
  if (exitCode !== 0) throw new Error(`${command.join(' ')}: ${exitCode}: ${stderr}`);
  return String(stdout);
};

const shell = (args: readonly string[], script: string) => output(args, 'sh', '-c', script);

/** What getent(1) of the host's glibc says inside, an address. */
const getent = (args: readonly string[], name: string) =>
  output([...HOST, ...args], '/usr/bin/getent', 'hosts', name);

test.serial('localhost and the host name have addresses', async (t) => {
  t.regex(await getent([], 'localhost'), /^::1 /);
  const perl = ['/usr/bin/perl', '-MSocket', '-e', 'print inet_ntoa(inet_aton("localhost"))'];
  t.is(await output(HOST, ...perl), '127.0.0.1');
  t.regex(await getent([], 'kiln'), /^127\./);
  t.regex(await getent(['--hostname', 'a1.example'], 'a1.example'), /^127\..*\ba1\b/);
  t.regex(await getent(['--hostname', 'a1.example'], 'a1'), /^127\./);
  t.is(await shell([], 'test ! -e /etc/resolv.conf && echo none'), 'none');
  // Nothing of it stays in the image.
  await t.throwsAsync(readFile(etc('hosts')), { code: 'ENOENT' });
});

test.serial('the image’s own entries for hosts are kept', async (t) => {
  await writeFile(etc('hosts'), '127.0.0.1 localhost\n192.0.2.7 build.example kiln\n# no end');
  try {
    const text = await shell([], 'cat /etc/hosts');
    t.is(text.match(/127\.0\.0\.1/g)?.length, 1);
    t.regex(text, /^::1\s+localhost/m);
    t.is(await getent([], 'build.example'), '192.0.2.7       build.example kiln');
    t.regex(await getent([], 'kiln'), /^192\.0\.2\.7 /);
    t.regex(await getent(['--hostname', 'other'], 'other'), /^127\./);
  } finally {
    await rm(etc('hosts'));
  }
});

test.serial('programs can replace the files of host names, as their owners', async (t) => {
  const script = `echo '192.0.2.1 moved' > /etc/new
    busybox ln -f /etc/new /etc/hosts && cat /etc/hosts && rm /etc/hosts && test ! -e /etc/hosts
    stat -c '%a %u %g' /etc`;
  const text = await shell(['--user', 'root'], script);
  t.regex(text, /192\.0\.2\.1 moved/);
  t.regex(text, /755 0 0$/);
});

test.serial('images without /etc, or with something else in its place, work', async (t) => {
  const saved = join(state.paths.root, 'saved-etc');
  await execa('mv', [etc(), saved]);
  try {
    t.regex(await shell(['--user', '0:0'], 'cat /etc/hosts'), /127\.0\.0\.1\s+localhost/);
    // A link to a folder of the host that the sandbox may write to: nothing appears there.
    const bound = join(state.beside, 'bound');
    await mkdir(bound);
    for (const target of ['/mnt', '../mnt', '/proc/1/root/etc', 'etc']) {
      await symlink(target, etc());
      const bind = ['--user', '0:0', '--bind', `${bound}:/mnt`];
      const { exitCode, stderr } = await kiln(bind, 'true');
      t.is(exitCode, 0, `${target}: ${stderr}`);
      t.is((await execa('ls', ['-A', bound])).stdout, '', target);
      await rm(etc());
    }
    await writeFile(etc(), 'a file\n');
    t.is(await shell(['--user', '0:0'], 'cat /etc'), 'a file');
    await rm(etc());
    // Links in place of the files: the sandbox has its own, what they point to is as it was.
    await mkdir(etc());
    for (const [name, target] of [
      ['hosts', '/mnt/hosts'],
      ['resolv.conf', '../run/systemd/resolve/stub-resolv.conf'],
    ] as const) {
      await symlink(target, etc(name));
    }
    await writeFile(join(bound, 'hosts'), 'the host’s\n');
    const host = ['--user', '0:0', '--network', 'host', '--allow-host-network'];
    const both = await shell(
      [...host, '--bind', `${bound}:/mnt`],
      'cat /etc/hosts /etc/resolv.conf',
    );
    t.regex(both, /localhost/);
    t.true(both.includes((await readFile('/etc/resolv.conf', 'utf8')).trim()));
    t.is(await readFile(join(bound, 'hosts'), 'utf8'), 'the host’s\n');
    // A FIFO, and what is too large to be anybody's.
    await rm(etc('hosts'));
    await execa('mkfifo', [etc('hosts')]);
    t.regex(await shell(['--user', '0:0'], 'cat /etc/hosts'), /localhost/);
    await rm(etc('hosts'));
    await execa('truncate', ['-s', '100G', etc('hosts')]);
    t.regex(await shell(['--user', '0:0'], 'cat /etc/hosts'), /localhost/);
  } finally {
    await rm(etc(), { recursive: true, force: true });
    await execa('mv', [saved, etc()]);
  }
});

test.serial('name servers are the host’s on its network, and none with a proxy', async (t) => {
  const host = ['--network', 'host', '--allow-host-network'];
  const text = await shell(host, 'cat /etc/resolv.conf');
  t.is(text, (await readFile('/etc/resolv.conf', 'utf8')).trimEnd());
  const proxied = await shell(
    ['--egress', 'example.org'],
    'cat /etc/resolv.conf || grep localhost /etc/hosts',
  );
  t.regex(proxied, /^127\.0\.0\.1/);
});

test.serial('a libvirt network gives an address, a way out, and names', async (t) => {
  await createNetwork(state.paths, {
    ...{ name: 'names', bridge: `kn${process.pid}`, host: address(1) },
    dhcp: `<dhcp><range start='${address(50)}' end='${address(60)}'/></dhcp>`,
    more: "<dns><host ip='192.0.2.99'><hostname>far.example</hostname></host></dns>",
  });
  const on = ['--network', 'names', '--hostname', 'me'];
  const hosts = await shell(on, 'cat /etc/hosts /etc/resolv.conf; cat /proc/net/route');
  const own = new RegExp(`^10\\.97\\.${third}\\.(?:5\\d|60)\\s+me$`, 'm');
  t.regex(hosts, own);
  t.regex(hosts, new RegExp(`^nameserver ${address(1)}$`, 'm'));
  t.regex(hosts, /^eth0\s+00000000/m);
  t.regex(await getent(on, 'far.example'), /^192\.0\.2\.99 /);
  // Reached over its way out: an HTTP server of the host's side.
  const server = (await import('node:http')).createServer((_, answer) => answer.end('hello'));
  await new Promise<void>((listening) => server.listen(0, address(1), listening));
  try {
    const { port } = server.address() as import('node:net').AddressInfo;
    const perl = `use IO::Socket::INET; my $s = IO::Socket::INET->new('${address(1)}:${port}') or die $!;
      print $s "GET / HTTP/1.0\\r\\n\\r\\n"; print <$s>;`;
    t.regex(await output([...HOST, ...on], '/usr/bin/perl', '-e', perl), /hello/);
  } finally {
    server.close();
  }
  // A fixed one is not asked for.
  const fixed = `names,address=${address(9)}/24,gateway=${address(1)}`;
  // IPv4 alone: for the other, glibc would wait for the host's name servers, which may be out of reach.
  const own4 = ['/usr/bin/getent', 'ahostsv4', 'me'];
  t.regex(await output([...HOST, '--network', fixed, '--hostname', 'me'], ...own4), /\.9 /);
  const wrong = await kiln(['--network', 'names,address=1'], 'true');
  t.is(wrong.exitCode, 125);
  t.regex(
    String(wrong.stderr),
    /'names,address=1' is invalid. not a network: write NAME, or NAME,address=/,
  );
});

test.serial('a sandbox of the library knows its names, too', async (t) => {
  await using kilns = openKiln({ env: state.env });
  await using sandbox = await kilns.open({ image: IMAGE, hostname: 'lib' });
  const command = await sandbox.spawn('cat', ['/etc/hosts']);
  let text = '';
  command.stdout.on('data', (chunk) => {
    text += String(chunk);
  });
  await new Promise((closed) => command.once('close', closed));
  t.regex(text, /^127\.0\.1\.1\s+lib$/m);
});
