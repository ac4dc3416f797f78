/** Machines on networks of libvirt's. Emulated ones take long to start. */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { serviceState } from '../service/service-state.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';
import { createNetwork, virsh } from '../support/libvirt-network.ts';
import { long } from '../support/long.ts';

const PORT = 8088;
const MACHINE = ['--isolation', 'vm', '--allow-missing', 'kvm'] as const;
const third = (process.pid % 250) + 1;
const address = (last: number) => `10.98.${third}.${last}`;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

function inMachineWith(options: readonly string[], ...command: readonly string[]) {
  return state.kiln(['run', ...MACHINE, '-r', IMAGE, ...options, '--', ...command], {
    ...{ stdin: 'pipe', timeout: 240_000 * PATIENCE },
  });
}

const inMachine = (network: string, ...command: readonly string[]) =>
  inMachineWith(['--network', network], ...command);

long('a machine has an address of a libvirt network, by DHCP or as it was given', async (t) => {
  t.timeout(600_000 * PATIENCE);
  // Networks are the embedded libvirtd's, which a first sandbox starts.
  await state.kiln(['run', '-r', IMAGE, '--', 'true']);
  await createNetwork(state.paths, {
    ...{ name: 'machines', bridge: `km${process.pid}`, host: address(1) },
    dhcp: `<dhcp><range start='${address(50)}' end='${address(60)}'/></dhcp>`,
  });
  t.teardown(() => virsh(state.paths, 'net-destroy', 'machines'));
  const asked: (string | undefined)[] = [];
  const server = createServer((request, response) => {
    asked.push(request.socket.remoteAddress);
    response.end('page');
  });
  t.teardown(() => server.close());
  await once(server.listen(PORT, address(1)), 'listening');
  const script = `cat /etc/hosts; cat /proc/net/route; wget -q -O - http://${address(1)}:${PORT}/`;
  for (const [network, last] of [
    ['machines', '(?:5\\d|60)'],
    [`machines,address=${address(9)}/24,gateway=${address(1)}`, '9'],
  ] as const) {
    const { exitCode, stdout, stderr } = await inMachine(network, 'sh', '-c', script);
    t.is(exitCode, 0, String(stderr));
    t.regex(String(stdout), new RegExp(`^10\\.98\\.${third}\\.${last}\\s`, 'm'));
    t.regex(String(stdout), /^eth0\s+00000000/m);
    t.regex(String(stdout), /page$/);
    t.regex(asked.at(-1) ?? '', new RegExp(`^10\\.98\\.${third}\\.${last}$`));
  }
});

long('a machine is on several networks, with routes, IPv6 and a filter', async (t) => {
  t.timeout(900_000 * PATIENCE);
  const [one, two, six] = [`10.97.${third}`, `10.96.${third}`, `fd00:97:${third}:`];
  await state.kiln(['run', '-r', IMAGE, '--', 'true']);
  await createNetwork(state.paths, {
    ...{ name: 'fixed', bridge: `kf${process.pid}`, host: `${one}.1`, dhcp: '' },
    more: `<ip family='ipv6' address='${six}:1' prefix='64'/>`,
  });
  t.teardown(() => virsh(state.paths, 'net-destroy', 'fixed'));
  const leased = ['leased', 'again'] as const;
  for (const [nth, name] of leased.entries()) {
    const at = (last: number) => `${two.replace('96', String(96 - nth))}.${last}`;
    await createNetwork(state.paths, {
      ...{ name, bridge: `kl${nth}${process.pid}`, host: at(1) },
      dhcp: `<dhcp><range start='${at(50)}' end='${at(60)}'/></dhcp>`,
    });
    t.teardown(() => virsh(state.paths, 'net-destroy', name));
  }
  const file = join(state.paths.root, 'filter.xml');
  await writeFile(
    file,
    `<filter name='run-port'>
       <rule action='accept' direction='in' priority='100'><tcp dstportstart='$PORT'/></rule>
       <rule action='drop' direction='in' priority='500'><tcp/></rule>
     </filter>`,
  );
  t.is((await virsh(state.paths, 'nwfilter-define', file)).exitCode, 0);
  const fixed = [
    ...[`fixed,address=${one}.2/24`, `gateway=${one}.1`, `address=${six}:2/64`, `gateway=${six}:1`],
    ...[`route=10.200.0.0/16%${one}.9`, `route=fd77::/48%${six}:9`],
    ...['filter=run-port', 'filter.PORT=8080'],
  ].join(',');
  const script = `ip addr; ip route; ip -6 route; busybox httpd -p 8081 -h /etc
    busybox httpd -p 8080 -h /etc; busybox httpd -p [::]:8080 -h /etc; echo ready >&2; read line`;
  const networks = [fixed, ...leased].flatMap((network) => ['--network', network]);
  const running = inMachineWith(networks, 'sh', '-c', script);
  await new Promise<void>((resolve, reject) => {
    running.stderr?.on('data', (text) => String(text).includes('ready') && resolve());
    running.then(({ stderr }) => reject(new Error(String(stderr))));
  });
  const status = async (url: string) => {
    const args = ['-gs', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '20', url];
    return (await execa('curl', args, { reject: false })).stdout;
  };
  t.is(await status(`http://${one}.2:8080/`), '404');
  t.is(await status(`http://${one}.2:8081/`), '000');
  t.regex((await virsh(state.paths, 'nwfilter-binding-list')).stdout, /run-port/);
  running.stdin?.end('\n');
  const { stdout, stderr, exitCode } = await running;
  t.is(exitCode, 0, String(stderr));
  const said = String(stdout);
  t.regex(said, new RegExp(`inet ${one}\\.2/24 .*eth0`));
  t.regex(said, new RegExp(`inet6 ${six}:2/64 scope global`));
  t.regex(said, new RegExp(`inet ${two}\\.(?:5\\d|60)/24 .*eth1`));
  t.regex(said, new RegExp(`inet ${two.replace('96', '95')}\\.(?:5\\d|60)/24 .*eth2`));
  t.deepEqual(said.match(/^default via [\d.]+ dev \w+/gm), [`default via ${one}.1 dev eth0`]);
  t.regex(said, new RegExp(`^10\\.200\\.0\\.0/16 via ${one}\\.9 dev eth0`, 'm'));
  t.regex(said, new RegExp(`^fd77::/48 via ${six}:9 dev eth0`, 'm'));
  t.regex(said, new RegExp(`^default via ${six}:1 dev eth0`, 'm'));
});

test('a machine has no network of the host, and says so before it starts', async (t) => {
  const { exitCode, stderr } = await inMachineWith(
    ['--network', 'host', '--allow-host-network'],
    'true',
  );
  t.is(exitCode, 125);
  t.regex(String(stderr), /a machine cannot have the host’s network.*--egress HOST/s);
});

long('ports of the host lead into a machine', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const port = await freePort();
  // Sent back in pieces, whole, by many at once; and nobody listens at the other one.
  const other = await freePort();
  const server = ['/bin/busybox', 'nc', '-ll', '-p', '8080', '-e', '/bin/cat'];
  const run = inMachineWith(['-p', `${port}:8080`, '-p', `${other}:81`], ...server);
  const script = `import os, socket, threading
def one():
    data = os.urandom(200000)
    s = socket.create_connection(('127.0.0.1', ${port}), 20)
    threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
    got = b''
    while part := s.recv(65536): got += part
    good.append(got == data)
good = []
all = [threading.Thread(target=one) for n in range(5)]
[each.start() for each in all]; [each.join() for each in all]
print(good.count(True))`;
  await eventually(async () => (await execa('python3', ['-c', script])).stdout === '5');
  const nobody = await execa('curl', ['-s', `http://127.0.0.1:${other}/`], { reject: false });
  t.not(nobody.exitCode, 0);
  await state.kiln(['kill', '--all']);
  await run;
});

long('Apache in a machine serves a page by --publish', async (t) => {
  t.timeout(900_000 * PATIENCE);
  await using services = await serviceState();
  const port = await freePort();
  const script = `. /etc/apache2/envvars; mkdir -p /run/apache2 /var/log/apache2 /var/www/html
    uname -r > /var/www/html/index.html; exec apache2 -D FOREGROUND`;
  const kiln = (...args: readonly string[]) => {
    const how = { env: services.env, reject: false, timeout: 600_000 * PATIENCE } as const;
    return execa(KILN, args, { ...how, stdin: 'ignore' });
  };
  const ended = new AbortController();
  const running = kiln(
    ...['run', '-r', 'debian-apache', ...MACHINE, '--user', 'root', '--name', 'web'],
    ...['-p', `${port}:80`, '--', 'sh', '-c', script],
  );
  running.then(({ stderr }) => ended.abort(new Error(String(stderr))));
  const page = async () => {
    if (ended.signal.aborted) return 'none';
    const args = ['-sf', '--max-time', '20', `http://127.0.0.1:${port}/`];
    return (await execa('curl', args)).stdout;
  };
  const served = await eventually(page);
  t.deepEqual(ended.signal.reason, undefined);
  const { stdout } = await kiln('inspect', 'web');
  t.true(String(stdout).includes(`"${port}:80"`), String(stdout));
  t.regex(served, /^\d+\.\d+\S*$/);
  t.not(served, (await execa('uname', ['-r'])).stdout);
  t.is((await kiln('kill', 'web')).exitCode, 0);
  await running;
});
