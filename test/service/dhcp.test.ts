import { randomBytes } from 'node:crypto';
import { Resolver } from 'node:dns/promises';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { execa } from 'execa';
import { decodeDhcp, encodeDhcp } from '../../src/sandbox/network/dhcp-message.ts';
import type { ServiceStatus } from '../../src/service/status.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { virsh as callVirsh, createNetwork } from '../support/libvirt-network.ts';
import { long } from '../support/long.ts';

let state: BusyboxState;
const third = (process.pid % 250) + 1;
const address = (last: number, second = 96) => `10.${second}.${third}.${last}`;

test.before(async () => {
  state = await busyboxState();
  // Starts the daemon that the network is defined in.
  const { exitCode, stderr } = await state.kiln(['run', '-r', IMAGE.slice(0, 12), '--', 'true']);
  if (exitCode !== 0) throw new Error(String(stderr));
  await network('lan', 96, `<dhcp><range start='${address(50)}' end='${address(60)}'/></dhcp>`);
});

test.after.always(async () => {
  await service('stop', 'one', 'two');
  await virsh('net-destroy', 'lan');
  await state[Symbol.asyncDispose]();
});

const service = (...args: readonly string[]) =>
  state.kiln(['service', ...args], { timeout: 300_000 });

const virsh = (...args: readonly string[]) => callVirsh(state.paths, ...args);

const network = (name: string, second: number, dhcp: string) =>
  createNetwork(state.paths, {
    ...{ name, dhcp, host: address(1, second) },
    bridge: `kd${second}-${process.pid}`,
  });

async function statusOf(name: string): Promise<ServiceStatus | undefined> {
  const { stdout } = await service('list', '--json', name);
  return (JSON.parse(String(stdout)) as { status?: ServiceStatus }[])[0]?.status;
}

/** The chains of rules that interfaces of this host have. */
async function chains(): Promise<string[]> {
  const { stdout } = await execa('iptables', ['-S']);
  return stdout.split('\n').filter((line) => /^-N F[IO]-vnet/.test(line));
}

/** The status of the server's answer, or 000. */
async function status(where: string): Promise<string> {
  const args = ['-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '5'];
  return (await execa('curl', [...args, `http://${where}/`], { reject: false })).stdout;
}

/** Waits for the server: a service runs before its server listens. */
const answers = (where: string) => eventually(async () => (await status(where)) === '404');

const HTTPD = ['/bin/busybox', 'httpd', '-f', '-p', '80', '-h', '/etc'];

test.serial('a service gets its address from the network, and tells its own name', async (t) => {
  for (const name of ['one', 'two']) {
    const made = await service(
      ...['create', '-r', IMAGE, '--user', 'root', '-N', 'lan,dhcp', name, '--', ...HTTPD],
    );
    t.is(made.exitCode, 0, String(made.stderr));
  }
  const started = [await service('start', 'one'), await service('start', 'two')];
  t.deepEqual(
    started.map(({ exitCode }) => exitCode),
    [0, 0],
    String(started[0]?.stderr),
  );
  const said = started.map(({ stdout }) => stdout).join('\n');
  // The network's own name server has it from the lease. (libvirt's list of leases loses some.)
  const names = new Resolver();
  names.setServers([address(1)]);
  for (const name of ['one', 'two']) {
    const given = (await statusOf(name))?.address;
    t.regex(given ?? '', new RegExp(`^10\\.96\\.${third}\\.(5\\d|60)$`));
    t.deepEqual(await names.resolve4(name), [given]);
    t.regex(said, new RegExp(`${name} is running, ${given} `));
    t.true(await answers(given ?? ''));
    // The way out, and who knows names.
    const hex = Buffer.from(address(1).split('.').map(Number)).reverse().toString('hex');
    const routes = await service('execute', name, '--', 'cat', '/proc/net/route');
    t.regex(String(routes.stdout), new RegExp(`^eth0\\s+00000000\\s+${hex}`, 'im'));
    const resolver = await service('execute', name, '--', 'cat', '/etc/resolv.conf');
    t.regex(String(resolver.stdout), new RegExp(`^nameserver ${address(1)}$`, 'm'));
  }
  t.not((await statusOf('one'))?.address, (await statusOf('two'))?.address);
});

test.serial(
  'after a restart a service has the same hardware address, and so its own address',
  async (t) => {
    const before = (await statusOf('one'))?.address;
    // What somebody wrote is left alone.
    const resolver = join(state.paths.services, 'one/etc/resolv.conf');
    await writeFile(resolver, 'nameserver 192.0.2.1\n');
    t.is((await service('restart', 'one')).exitCode, 0);
    t.is((await statusOf('one'))?.address, before);
    t.is(await readFile(resolver, 'utf8'), 'nameserver 192.0.2.1\n');
  },
);

test.serial('an address and DHCP together are refused', async (t) => {
  const network = `lan,dhcp,address=${address(9)}/24`;
  const { exitCode, stderr } = await service(
    'create',
    '-r',
    IMAGE,
    '-N',
    network,
    'x',
    '--',
    'true',
  );
  t.is(exitCode, 125);
  t.regex(String(stderr), /either dhcp, or an IPv4 address and its routes: write NAME/);
});

test.serial(
  'nwfilter rules let one port through and no other; a missing filter is named',
  async (t) => {
    const file = join(state.paths.root, 'filter.xml');
    // DHCP has to pass, too.
    await writeFile(
      file,
      `<filter name='one-port'>
       <rule action='accept' direction='in' priority='100'><tcp dstportstart='$PORT'/></rule>
       <rule action='accept' direction='inout' priority='200'><udp/></rule>
       <rule action='drop' direction='in' priority='500'><tcp/></rule>
     </filter>`,
    );
    t.is((await virsh('nwfilter-define', file)).exitCode, 0);
    const both = 'busybox httpd -p 81 -h /etc; exec busybox httpd -f -p 80 -h /etc';
    const create = (name: string, network: string) =>
      service(
        ...['create', '-r', IMAGE, '--user', 'root', '-N', network, name, '--', 'sh', '-c', both],
      );
    await create('open', 'lan');
    t.is((await create('closed', 'lan,filter=one-port,filter.PORT=80')).exitCode, 0);
    t.is((await service('start', 'open')).exitCode, 0);
    const before = new Set(await chains());
    const started = await service('start', 'closed');
    t.is(started.exitCode, 0, String(started.stderr));
    const [open, closed] = [(await statusOf('open'))?.address, (await statusOf('closed'))?.address];
    for (const where of [`${open}:80`, `${open}:81`, `${closed}:80`]) t.true(await answers(where));
    // This server was the first of the two to listen.
    t.is(await status(`${closed}:81`), '000');
    t.true((await chains()).length > before.size);
    await service('stop', 'open', 'closed');
    // Nothing of it stays on the host.
    await eventually(async () => (await chains()).every((chain) => before.has(chain)));
    await create('lost', 'lan,filter=nonesuch');
    const refused = await service('start', 'lost');
    t.is(refused.exitCode, 125);
    t.regex(String(refused.stderr), /'nonesuch' is missing.*virsh nwfilter-list/s);
    const nowhere = await create('nowhere', 'nonesuch');
    t.is(nowhere.exitCode, 0);
    t.regex(String((await service('start', 'nowhere')).stderr), /virsh -c '\S+' net-list/);
  },
);

test('answers that are cut, forged or for others are ignored', (t) => {
  const hardware = Buffer.from('525400123456', 'hex');
  const request = encodeDhcp({ type: 1, transaction: 7, hardware, hostname: 'one' });
  t.is(decodeDhcp(request, hardware), undefined, 'a request is no answer');
  const answer = Buffer.from(request);
  answer[0] = 2;
  t.is(decodeDhcp(answer, hardware)?.transaction, 7);
  t.is(decodeDhcp(answer, Buffer.from('525400123457', 'hex')), undefined);
  for (let length = 0; length < answer.length; length++) {
    t.notThrows(() => decodeDhcp(answer.subarray(0, length), hardware));
  }
  for (let round = 0; round < 2000; round++) {
    const noise = Buffer.concat([answer.subarray(0, 240), randomBytes(round % 400)]);
    t.notThrows(() => decodeDhcp(noise, hardware));
  }
});

long('a lease is renewed before it ends', async (t) => {
  const range = `<range start='${address(150, 95)}' end='${address(160, 95)}'><lease expiry='2' unit='minutes'/></range>`;
  await network('short', 95, `<dhcp>${range}</dhcp>`);
  try {
    await service('create', '-r', IMAGE, '--user', 'root', '-N', 'short', 'brief', '--', ...HTTPD);
    t.is((await service('start', 'brief')).exitCode, 0);
    const { sandbox, address: given } = (await statusOf('brief'))!;
    const expiry = async () => (await virsh('net-dhcp-leases', 'short')).stdout.slice(0, 20);
    const first = await expiry();
    await sleep(130_000);
    t.not(await expiry(), first);
    t.is((await statusOf('brief'))?.sandbox, sandbox);
    t.is((await statusOf('brief'))?.address, given);
  } finally {
    await service('stop', 'brief');
    await virsh('net-destroy', 'short');
  }
});

long('a network without DHCP is named', async (t) => {
  await network('silent', 94, '');
  try {
    await service('create', '-r', IMAGE, '--user', 'root', '-N', 'silent', 'mute', '--', ...HTTPD);
    const { exitCode, stderr } = await service('start', 'mute');
    t.is(exitCode, 125);
    t.regex(String(stderr), /no DHCP server gave an address within 60 s/);
  } finally {
    await service('stop', 'mute');
    await virsh('net-destroy', 'silent');
  }
});
