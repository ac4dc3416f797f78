import { isIP } from 'node:net';
import test from 'ava';
import {
  canonicalHost,
  checkEgress,
  EgressLog,
  isListed,
  isPublicAddress,
  MAX_ENTRIES,
  parseEgressRule,
} from '../../src/egress/rule.ts';

const listed = (rules: readonly string[], host: string, port: number) => {
  const parsed = rules.map(parseEgressRule).filter((rule) => rule !== undefined);
  const canonical = canonicalHost(host);
  return canonical !== undefined && isListed(parsed, canonical, port);
};

test('a rule is a name, all names below one, or an address, with its ports', (t) => {
  t.true(listed(['example.org'], 'EXAMPLE.org.', 443));
  t.true(listed(['example.org'], 'example.org', 80));
  t.false(listed(['example.org'], 'example.org', 22));
  t.true(listed(['example.org:8443'], 'example.org', 8443));
  t.false(listed(['example.org:8443'], 'example.org', 443));
  t.false(listed(['example.org'], 'www.example.org', 443));
  t.true(listed(['*.example.org'], 'a.b.example.org', 443));
  t.false(listed(['*.example.org'], 'example.org', 443));
  t.false(listed(['*.example.org'], 'badexample.org', 443));
  t.false(listed(['*.example.org'], 'example.org.evil.net', 443));
  t.true(listed(['[::1]:80', '10.0.0.1:80'], '::1', 80));
  t.true(listed(['2606:4700::1111'], '[2606:4700::1111]', 443));
  t.true(listed(['bücher.example'], 'xn--bcher-kva.example', 443));
});

test('an invalid host is no rule, least of all an odd spelling of an address', (t) => {
  const none = ['', '*', '*.', 'a..b', 'a b', 'http://a', 'a/b', 'a:0', 'a:65536', 'a:b', 'u@a'];
  const numbers = ['127.1', '0x7f000001', '2130706433', '0177.0.0.1', '127.0.0.1.', '*.0.0.1'];
  for (const text of [...none, ...numbers, '*.127.0.0.1', 'a\r\nb', 'a\0', 'fe80::1%eth0:1']) {
    t.is(parseEgressRule(text), undefined, JSON.stringify(text));
  }
});

test('addresses of this host, private networks and special ranges are not public', (t) => {
  const not = [
    ...['127.0.0.1', '127.8.8.8', '0.0.0.0', '10.1.2.3', '172.31.255.255', '192.168.0.1'],
    ...['169.254.169.254', '100.64.0.1', '224.0.0.1', '255.255.255.255', '198.18.0.1'],
    ...['::', '::1', 'fe80::1', 'fc00::1', 'fd00:ec2::254', 'ff02::1', '64:ff9b::7f00:1'],
    ...['::ffff:127.0.0.1', '::ffff:8.8.8.8', '2002:7f00:1::', '2001:db8::1', 'fe80::1%lo', 'x'],
  ];
  for (const address of not) t.false(isPublicAddress(address), address);
  for (const address of ['8.8.8.8', '172.32.0.1', '2606:4700:4700::1111']) {
    t.true(isIP(address) !== 0 && isPublicAddress(address), address);
  }
});

test('a list of hosts needs a private network, and a profile that has sockets', (t) => {
  const good = { egress: ['a.example'], network: 'private', seccomp: 'default' } as const;
  t.notThrows(() => checkEgress(good));
  t.notThrows(() => checkEgress({ network: 'host', seccomp: 'strict' }));
  t.throws(() => checkEgress({ ...good, network: 'host' }), { code: 'E_EGRESS' });
  t.throws(() => checkEgress({ ...good, network: { name: 'default' } }), { code: 'E_EGRESS' });
  t.throws(() => checkEgress({ ...good, seccomp: 'strict' }), { code: 'E_EGRESS' });
  t.throws(() => checkEgress({ ...good, egress: ['a/b'] }), { code: 'E_EGRESS' });
});

test('the log adds up, and has a bound however many hosts are asked for', (t) => {
  const log = new EgressLog();
  for (let i = 0; i < 10_000; i++) {
    const counts = { count: 1, sentBytes: 1, receivedBytes: 2 };
    const refused = i % 2 === 0 ? { refused: 'not on the list' } : {};
    log.add({ host: `h${i % 5000}.example`, port: 1, ...refused, ...counts });
  }
  const entries = log.entries();
  t.is(entries.length, MAX_ENTRIES + 2);
  const sum = (name: 'count' | 'sentBytes' | 'receivedBytes') =>
    entries.reduce((all, entry) => all + entry[name], 0);
  t.deepEqual([sum('count'), sum('sentBytes'), sum('receivedBytes')], [10_000, 10_000, 20_000]);
});
