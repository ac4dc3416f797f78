/** Sandboxes on several networks of libvirt's: addresses, routes, filters, names. */
import { Resolver } from 'node:dns/promises';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { neighboursOn } from '../../src/sandbox/network/addresses.ts';
import { parseLibvirtNetwork } from '../../src/sandbox/policy/network.ts';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { createNetwork, virsh } from '../support/libvirt-network.ts';

let state: BusyboxState;
const third = ((process.pid + 50) % 250) + 1;
const first = (last: number) => `10.92.${third}.${last}`;
const second = (last: number) => `10.91.${third}.${last}`;
const six = (last: number) => `fd00:92:${third}::${last}`;

test.before(async () => {
  state = await busyboxState();
  // Networks are the embedded libvirtd's, which a first sandbox starts.
  await state.kiln(['run', '-r', IMAGE, '--', 'true']);
  await createNetwork(state.paths, {
    ...{ name: 'first', bridge: `ka${process.pid}`, host: first(1), dhcp: '' },
    more: `<ip family='ipv6' address='${six(1)}' prefix='64'/>`,
  });
  await createNetwork(state.paths, {
    ...{ name: 'second', bridge: `kb${process.pid}`, host: second(1) },
    dhcp: `<dhcp><range start='${second(50)}' end='${second(60)}'/></dhcp>`,
  });
});

test.after.always(async () => {
  for (const name of ['first', 'second']) await virsh(state.paths, 'net-destroy', name);
  await state[Symbol.asyncDispose]();
});

const kiln = (...args: readonly string[]) => state.kiln(args, { timeout: 180_000 * PATIENCE });

const run = (...args: readonly string[]) => kiln('run', '-r', IMAGE, ...args);

/** Runs it on until it is killed, and waits for it. */
async function begin(name: string, networks: readonly string[], ...command: readonly string[]) {
  const on = networks.flatMap((network) => ['--network', network]);
  const { exitCode, stderr } = await run(...on, '--detach', '--name', name, '--', ...command);
  if (exitCode !== 0) throw new Error(String(stderr));
  return await eventually(async () => {
    const { stdout } = await kiln('exec', name, '--', 'cat', '/proc/net/fib_trie');
    return String(stdout);
  });
}

const inside = async (name: string, ...command: readonly string[]) =>
  String((await kiln('exec', name, '--', ...command)).stdout);

const answers = (url: string) =>
  eventually(async () => {
    const args = ['-gs', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '5', url];
    return (await execa('curl', args, { reject: false })).stdout === '404';
  });

const FIXED = [
  ...[`first,address=${first(2)}/24`, `gateway=${first(1)}`, `address=${six(2)}/64`],
  ...[`gateway=${six(1)}`, `route=10.200.0.0/16%${first(9)}`, `route=fd77::/48%${six(9)}`],
].join(',');

test.serial(
  'a sandbox is on two networks, with addresses and routes of IPv4 and IPv6',
  async (t) => {
    await begin(
      'both',
      [FIXED, 'second'],
      '/bin/busybox',
      'httpd',
      '-f',
      '-p',
      '8080',
      '-h',
      '/etc',
    );
    const addresses = await inside('both', '/bin/busybox', 'ip', 'addr');
    t.regex(addresses, new RegExp(`inet ${first(2)}/24 .*eth0`));
    t.regex(addresses, new RegExp(`inet6 ${six(2)}/64 scope global`));
    const leased = new RegExp(`inet (10\\.91\\.${third}\\.(?:5\\d|60))/24 .*eth1`).exec(
      addresses,
    )?.[1];
    t.truthy(leased, addresses);
    // The gateway that was given is the only way out; what DHCP tells is left.
    const routes = await inside('both', '/bin/busybox', 'ip', 'route');
    t.deepEqual(
      routes.match(/^default .*$/gm)?.map((line) => line.trim().split(/\s+/).slice(0, 5).join(' ')),
      [`default via ${first(1)} dev eth0`],
    );
    t.regex(routes, new RegExp(`^10\\.200\\.0\\.0/16 via ${first(9)} dev eth0`, 'm'));
    const routes6 = await inside('both', '/bin/busybox', 'ip', '-6', 'route');
    t.regex(routes6, new RegExp(`^fd77::/48 via ${six(9)} dev eth0`, 'm'));
    t.regex(routes6, new RegExp(`^default via ${six(1)} dev eth0`, 'm'));
    // The host reaches each of them.
    for (const host of [first(2), `[${six(2)}]`, leased])
      t.true(await answers(`http://${host}:8080/`));
    const { stdout } = await kiln('ps', '--json');
    const [{ record }] = JSON.parse(String(stdout));
    t.deepEqual(
      record.addresses.map((each: object) => Object.values(each).join(' ')),
      [`first ${first(2)}`, `first ${six(2)}`, `second ${leased}`],
    );
    const xml = (await virsh(state.paths, 'dumpxml', record.domain)).stdout;
    t.is(xml.match(/<interface type='network'>/g)?.length, 2);
    await kiln('kill', 'both');
  },
);

test.serial('a rule set of nwfilter keeps a port shut', async (t) => {
  const file = join(state.paths.root, 'filter.xml');
  await writeFile(
    file,
    `<filter name='run-port'>
       <rule action='accept' direction='in' priority='100'><tcp dstportstart='$PORT'/></rule>
       <rule action='drop' direction='in' priority='500'><tcp/></rule>
     </filter>`,
  );
  t.is((await virsh(state.paths, 'nwfilter-define', file)).exitCode, 0);
  const network = `first,address=${first(3)}/24,filter=run-port,filter.PORT=8080`;
  const both = 'busybox httpd -p 8081 -h /etc; exec busybox httpd -f -p 8080 -h /etc';
  await begin('shut', [network], 'sh', '-c', both);
  t.true(await answers(`http://${first(3)}:8080/`));
  const shut = await execa('curl', ['-s', '--max-time', '3', `http://${first(3)}:8081/`], {
    reject: false,
  });
  t.is(shut.exitCode, 28);
  const bindings = (await virsh(state.paths, 'nwfilter-binding-list')).stdout;
  t.regex(bindings, /run-port/);
  await kiln('kill', 'shut');
  const lost = await run('--network', `first,address=${first(4)}/24,filter=nonesuch`, '--', 'true');
  t.is(lost.exitCode, 125);
  t.regex(String(lost.stderr), /'nonesuch' is missing/);
});

test.serial('sandboxes of one network find each other by name', async (t) => {
  const server = ['/bin/busybox', 'httpd', '-f', '-p', '8080', '-h', '/etc'];
  await begin('store', [`first,address=${first(20)}/24`, 'second'], ...server);
  // glibc's own answer, of what kiln knew when it began, and over the network.
  const look = ['sh', '-c', 'getent ahostsv4 store; getent ahostsv4 me; cat /etc/hosts'];
  const on = ['--network', `first,address=${first(21)}/24`];
  const found = await kiln('run', '-r', 'host', ...on, '--name', 'me', '--', ...look);
  t.regex(
    String(found.stdout),
    new RegExp(`^${first(20)} +STREAM store$`, 'm'),
    String(found.stderr),
  );
  t.regex(String(found.stdout), new RegExp(`^${first(21)} +STREAM`, 'm'));
  t.notRegex(String(found.stdout), new RegExp(`10\\.91\\.${third}\\.\\d+\\s+store`));
  // On another network nobody knows of it, nor does another user on this one.
  const apart = await kiln('run', '-r', 'host', '--network', 'second', '--', 'cat', '/etc/hosts');
  t.regex(String(apart.stdout), new RegExp(`^10\\.91\\.${third}\\.\\d+\\s+store$`, 'm'));
  t.false(String(apart.stdout).includes(first(20)));
  const [network] = [parseLibvirtNetwork('first')].filter((each) => typeof each === 'object');
  const ofUser = (owner: { uid: number } | undefined) =>
    neighboursOn(state.paths, network === undefined ? 'private' : [network], owner);
  t.deepEqual(await ofUser({ uid: 4711 }), []);
  t.deepEqual(await ofUser(undefined), [{ name: 'store', address: first(20) }]);
  // Who came before asks the network's own name server.
  await begin('late', ['second'], ...server);
  const names = new Resolver();
  names.setServers([second(1)]);
  const [late = ''] = await names.resolve4('late');
  t.true((await inside('store', '/bin/busybox', 'nslookup', 'late')).includes(late));
  await kiln('kill', 'store', 'late');
});

const WRONG: readonly (readonly [string, RegExp])[] = [
  ['first,dhcp6', /DHCP gives IPv4 addresses only; address= gives a fixed one of IPv6: write NAME/],
  ['first,address=10.0.0.2/24,gateway=10.0.0.1,gateway=10.0.0.9', /two gateways/],
  ['first,route=10.0.0.0/8%10.0.0.1', /either dhcp, or an IPv4 address and its routes/],
  ['first,address=10.0.0.2/24,route=10.0.0.0/8%fd00::1', /not a network: write NAME/],
  ['first,address=10.0.0.2/24,gateway=fd00::1', /a route wants an address of IPv6/],
  ['first,filter.PORT=80', /filter\.VARIABLE is of a filter/],
  ["first,filter=a,filter.X='/><b", /not a network/],
  ['first,address=10.0.0.2/33', /not a network/],
  ['first,frob', /not a network/],
  ['first private', /private goes with no other network/],
];

for (const [network, expected] of WRONG) {
  test(`refused before anything starts: ${network}`, async (t) => {
    const { exitCode, stderr } = await run('--network', network, '--', 'true');
    t.is(exitCode, 125);
    t.regex(String(stderr), expected);
  });
}
