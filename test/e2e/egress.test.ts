import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { type BusyboxState, busyboxState, IMAGE, PATIENCE } from '../support/busybox-state.ts';
import { startedByKiln } from '../support/processes.ts';

/** What a server of the host's was asked. */
const asked: string[] = [];
let state: BusyboxState;
let server: Server;
let port: number;

test.before(async () => {
  state = await busyboxState();
  server = createServer((request: IncomingMessage, response) => {
    const { method, url, headers } = request;
    asked.push(`${method} ${url} ${headers.host} ${headers['proxy-connection'] ?? 'clean'}`);
    let length = 0;
    request.on('data', (chunk: Buffer) => {
      length += chunk.length;
    });
    request.on('end', () => response.end(`got ${length}\n`));
  });
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  port = (server.address() as AddressInfo).port;
});
test.after.always(async () => {
  server.close();
  server.closeAllConnections();
  await state[Symbol.asyncDispose]();
});

/** The host's curl, with what it needs, in a sandbox of busybox. */
const CURL = ['/usr', '/lib', '/lib64'].flatMap((path) => ['--bind', `${path}:${path}:ro`]);

const run = (options: readonly string[], script: string) =>
  state.kiln(['run', '-r', IMAGE, '--json', ...CURL, ...options, '--', 'sh', '-c', script]);
const resultOf = (stderr: unknown) => JSON.parse(String(stderr).split('\n').at(-1) ?? '');
const curl = '/usr/bin/curl -sS -m 20 -w %{http_code}';

test.serial('curl reaches a host of the list, by requests and tunnels, and no other', async (t) => {
  const url = `http://127.0.0.1:${port}`;
  const script = [
    `${curl} ${url}/plain?a=b`,
    `${curl} -p ${url}/tunnel`,
    `dd if=/dev/zero bs=1k count=100 2>/dev/null | ${curl} -X PUT -H "Transfer-Encoding: chunked" --data-binary @- ${url}/put`,
    `${curl} http://127.0.0.2:${port}/other`,
    `${curl} -p http://127.0.0.1:1/port 2>/dev/null`,
    `${curl} -p http://not-listed.example:${port}/name 2>/dev/null`,
    'ls /sys/class/net 2>/dev/null; head -1 /proc/net/route; cat /proc/net/if_inet6',
  ].join('; ');
  asked.length = 0;
  const { stdout, stderr } = await run(['--egress', `127.0.0.1:${port}`], script);
  const lines = String(stdout).split('\n');
  t.deepEqual(lines.slice(0, 3), ['got 0', '200got 0', '200got 102400'], String(stdout));
  t.regex(lines[3] ?? '', /^200kiln: 127\.0\.0\.2:\d+: not on the list/);
  // The oracle: what the host's server got. Proxy headers and the sandbox's Host are not among it.
  const host = `127.0.0.1:${port}`;
  t.deepEqual(asked, [
    `GET /plain?a=b ${host} clean`,
    `GET /tunnel ${host} clean`,
    `PUT /put ${host} clean`,
  ]);
  // Each refusal once, with the option that allows it.
  t.deepEqual(
    String(stderr)
      .split('\n')
      .filter((line) => line.startsWith('kiln: egress')),
    [`127.0.0.2:${port}`, '127.0.0.1:1', `not-listed.example:${port}`].map(
      (place) => `kiln: egress refused: ${place}: not on the list (--egress ${place} allows it)`,
    ),
  );
  const { egress, policy } = resultOf(stderr);
  t.deepEqual(policy.interfaces, ['lo']);
  const short = egress.map((it: { host: string; count: number; refused?: string }) => [
    it.host,
    it.count,
    it.refused ?? 'given',
  ]);
  t.deepEqual(short, [
    ['127.0.0.1', 3, 'given'],
    ['127.0.0.2', 1, 'not on the list'],
    ['127.0.0.1', 1, 'not on the list'],
    ['not-listed.example', 1, 'not on the list'],
  ]);
  t.true(egress[0].sentBytes > 102_400);
});

test.serial('a name for the host itself is refused unless its address is listed', async (t) => {
  const url = `http://localhost:${port}`;
  const script = `unset no_proxy NO_PROXY; ${curl} ${url}/a; ${curl} -p ${url}/b 2>&1`;
  asked.length = 0;
  const refused = await run(['--egress', `localhost:${port}`], script);
  t.regex(String(refused.stdout), /not public, and not on the list/);
  t.deepEqual(asked, []);
  const both = ['--egress', `localhost:${port}`, '--egress', `127.0.0.1:${port}`];
  const given = await run(both, script);
  t.is(String(given.stdout), 'got 0\n200got 0\n200');
  t.is(asked.length, 2);
});

test.serial(
  'the proxy survives what is not HTTP, and ends with its run, killed or not',
  async (t) => {
    const junk = [
      String.raw`printf 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'`,
      String.raw`printf 'GET http://127.0.0.1:${port}/ HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'`,
      String.raw`printf 'CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n'`,
      String.raw`printf 'CONNECT 127.0.0.1:${port}@evil:80 HTTP/1.1\r\n\r\n'`,
      String.raw`printf 'GET http://127.0.0.1:${port}@127.0.0.2:${port}/ HTTP/1.1\r\nHost: a\r\n\r\n'`,
      'head -c 100000 /dev/zero',
    ].map((text) => `${text} | /usr/bin/curl -s -m 3 telnet://127.0.0.1:3128 | head -1`);
    const script = `${junk.join('; ')}; unset no_proxy NO_PROXY; ${curl} http://127.0.0.1:${port}/after`;
    asked.length = 0;
    const { stdout } = await run(['--egress', `127.0.0.1:${port}`], script);
    t.true(String(stdout).endsWith('got 0\n200'), String(stdout));
    t.deepEqual(asked, [`GET /after 127.0.0.1:${port} clean`]);

    const going = run(['--egress', 'a.example'], 'sleep 300');
    const statusOfProxy = (): string | undefined => {
      try {
        const [pid] = startedByKiln(state.paths.root, going.pid, /egress-proxy\.\w+$/);
        return readFileSync(join('/proc', String(pid), 'status'), 'latin1');
      } catch {
        return undefined;
      }
    };
    let status = statusOfProxy();
    for (let i = 0; i < 600 * PATIENCE && !/^Seccomp:\t2$/m.test(status ?? ''); i++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      status = statusOfProxy();
    }
    const proxy = /^Pid:\t(\d+)$/m.exec(status ?? '')?.[1] ?? '';
    // It is nobody's process: no id of the host's, no capability, no new rights, a filter.
    t.regex(status ?? '', /^Uid:\t1879113725\t1879113725\t1879113725\t1879113725$/m);
    t.regex(status ?? '', /^Groups:\t *$/m);
    t.regex(status ?? '', /^CapEff:\t0{16}$/m);
    t.regex(status ?? '', /^CapPrm:\t0{16}$/m);
    t.regex(status ?? '', /^NoNewPrivs:\t1$/m);
    t.regex(status ?? '', /^Seccomp:\t2$/m);
    going.kill('SIGKILL');
    await going;
    for (let i = 0; i < 400 * PATIENCE; i++) {
      try {
        process.kill(Number(proxy), 0);
      } catch {
        t.pass();
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    t.fail('the proxy outlives the run');
  },
);

test.serial('without a proxy, the sandbox’s loopback has no ports, nor the host’s', async (t) => {
  const lone = createTcpServer();
  lone.listen(0, '127.0.0.1');
  await new Promise((resolve) => lone.once('listening', resolve));
  const { port: other } = lone.address() as AddressInfo;
  // Without a proxy nothing listens there, and the host's ports are not the sandbox's.
  const script = `${curl} http://127.0.0.1:3128/ 2>&1; ${curl} http://127.0.0.1:${other}/ 2>&1`;
  const { stdout } = await run([], script);
  t.is(String(stdout).match(/Could not connect/g)?.length, 2, String(stdout));
  lone.close();
});

test.serial('options that exclude each other are refused before anything runs', async (t) => {
  const strict = await run(['--egress', 'a.example', '--seccomp', 'strict'], 'true');
  t.is(strict.exitCode, 125);
  t.regex(String(strict.stderr), /strict profile allows no network/);
  const host = await run(
    ['--egress', 'a.example', '--network', 'host', '--allow-host-network'],
    'true',
  );
  t.is(host.exitCode, 125);
  const bad = await run(['--egress', 'http://a.example'], 'true');
  t.not(bad.exitCode, 0);
  t.regex(String(bad.stderr), /not a host/);
});

test.serial('each command in a kept sandbox has the proxy again', async (t) => {
  const kept = await run(['--keep=5m', '--egress', `127.0.0.1:${port}`], 'true');
  const [, id = ''] = /kept as (\w+)/.exec(String(kept.stderr)) ?? [];
  for (const name of ['first', 'second']) {
    asked.length = 0;
    const script = `unset no_proxy NO_PROXY; ${curl} http://127.0.0.1:${port}/${name}; ${curl} http://127.0.0.2:${port}/`;
    const { stdout, stderr } = await state.kiln(['exec', id, '--', 'sh', '-c', script]);
    t.regex(String(stdout), /^got 0\n200/, String(stderr));
    t.deepEqual(asked, [`GET /${name} 127.0.0.1:${port} clean`]);
    t.regex(String(stderr), /^kiln: egress refused: 127\.0\.0\.2:/m);
  }
  await state.kiln(['kill', id]);
});
