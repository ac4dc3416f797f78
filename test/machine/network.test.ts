/** Machines on networks of libvirt's. Emulated ones take long to start. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import test from 'ava';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { createNetwork, virsh } from '../support/libvirt-network.ts';
import { long } from '../support/long.ts';

const PORT = 8088;
const third = (process.pid % 250) + 1;
const address = (last: number) => `10.98.${third}.${last}`;

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

function inMachine(network: string, ...command: string[]) {
  return state.kiln(
    [
      ...['run', '--isolation', 'vm', '--allow-missing', 'kvm', '-r', IMAGE],
      ...['--network', network, '--', ...command],
    ],
    { timeout: 240_000 * PATIENCE },
  );
}

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

test('a machine has one network and address of IPv4, and says so before anything starts', async (t) => {
  const fixed = 'machines,address=10.0.0.2/24';
  for (const [network, what] of [
    ['machines,address=fd00::2/64', 'an IPv6 address'],
    [`${fixed},route=10.9.0.0/16%10.0.0.1`, 'route='],
    [`${fixed},address=10.0.0.3/24`, 'a second address'],
    ['machines machines', 'a second network'],
  ] as const) {
    const { exitCode, stderr } = await inMachine(network, 'true');
    t.is(exitCode, 125);
    t.true(String(stderr).includes(`${what} is not done for machines yet`), String(stderr));
  }
});
