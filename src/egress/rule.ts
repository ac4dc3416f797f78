import { BlockList, isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import { domainToASCII } from 'node:url';
import { KilnError } from '../errors.ts';

const USUAL_PORTS: readonly number[] = [80, 443];

export interface EgressRule {
  readonly host: string;
  /** True for `*.host`: names below `host`, but not `host` itself. */
  readonly below: boolean;
  readonly ports: readonly number[];
}

/** Characters of names; domainToASCII() takes a URL's host and drops everything after other characters. */
const NAME = /^[a-z0-9_.\-\u0080-\uffff]+$/;

const LABEL = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/;

/** Text that some read as part of an IPv4 address: 127.1, 0x7f000001. No name ends like that. */
const NUMBER = /^(?:\d+|0x[0-9a-f]*)$/;

export function canonicalHost(text: string): string | undefined {
  const bare = /^\[(.+)\]$/.exec(text)?.[1] ?? text;
  // An address with a zone (fe80::1%eth0) is on one of this host's links.
  if (isIP(bare) !== 0) return bare.includes('%') ? undefined : bare.toLowerCase();
  const lower = text.toLowerCase().replace(/\.$/, '');
  if (!NAME.test(lower)) return undefined;
  const name = domainToASCII(lower);
  const labels = name.split('.');
  if (name.length > 253 || !labels.every((label) => LABEL.test(label))) return undefined;
  return NUMBER.test(labels.at(-1) ?? '') ? undefined : name;
}

/** `HOST[:PORT]`: a name, `*.NAME` for all names below it, an address, `[ADDRESS]` of IPv6. Else undefined. */
export function parseEgressRule(text: string): EgressRule | undefined {
  const bare = isIP(text) === 6;
  const [, pattern = '', digits] = bare
    ? [text, text]
    : (/^(\[[^\]]*\]|[^:]*)(?::(\d{1,5}))?$/.exec(text) ?? []);
  const below = pattern.startsWith('*.');
  const host = canonicalHost(below ? pattern.slice(2) : pattern);
  const port = digits === undefined ? undefined : Number(digits);
  if (host === undefined || (below && isIP(host) !== 0)) return undefined;
  if (port !== undefined && (port < 1 || port > 65535)) return undefined;
  return { host, below, ports: port === undefined ? USUAL_PORTS : [port] };
}

/**
 * For the proxy alone: all hosts with a public address, at any port. It comes of `--egress-learn`; nobody names it as a
 * host.
 */
export const PUBLIC_HOSTS = '*';

export function parseEgressRules(texts: readonly string[]): EgressRule[] {
  return texts.map((text) => {
    const rule = parseEgressRule(text);
    if (rule !== undefined) return rule;
    throw new KilnError('E_EGRESS', `not a host to allow: ${JSON.stringify(text)}`, {
      hint: 'write it as HOST, HOST:PORT or *.HOST; a host is a name or an address',
    });
  });
}

export function isListed(rules: readonly EgressRule[], host: string, port: number): boolean {
  return rules.some(
    (rule) =>
      rule.ports.includes(port) &&
      (rule.below ? host.endsWith(`.${rule.host}`) : host === rule.host),
  );
}

export function checkEgress(request: {
  readonly egress?: readonly string[] | undefined;
  readonly network: string | object;
  readonly seccomp: string;
}): void {
  const { egress, network, seccomp } = request;
  if (egress === undefined) return;
  parseEgressRules(egress);
  if (network !== 'private') {
    throw new KilnError(
      'E_EGRESS',
      '--egress is for a sandbox without a network, and this one has one',
      { hint: 'leave out the network, or the list of hosts' },
    );
  }
  if (seccomp === 'strict') {
    throw new KilnError(
      'E_EGRESS',
      'the strict profile allows no network, so --egress has no effect',
      { hint: 'leave out --egress, or choose another --seccomp profile' },
    );
  }
}

export interface EgressEntry {
  readonly host: string;
  readonly port: number;
  readonly refused?: string | undefined;
  readonly count: number;
  readonly sentBytes: number;
  readonly receivedBytes: number;
}

export function placeOf({ host, port }: Pick<EgressEntry, 'host' | 'port'>): string {
  return port === 0 ? host : `${host}:${port}`;
}

/** What would let a refused host through, in words of the command line; undefined where nothing does. */
export function allowingOption(entry: EgressEntry): string | undefined {
  const { host, refused } = entry;
  const place = placeOf(entry);
  if (parseEgressRule(place) === undefined) return undefined;
  const isPrivate = refused?.startsWith('its address is not public') === true;
  if (refused !== 'not on the list' && !isPrivate) return undefined;
  const isName = isIP(host.replace(/^\[(.+)\]$/, '$1')) === 0;
  return isPrivate && isName ? '--egress with its address, beside its name' : `--egress ${place}`;
}

/** The most entries: a sandbox can ask for any number of hosts. */
export const MAX_ENTRIES = 200;

const OTHERS = '(others)';

export class EgressLog {
  readonly #entries = new Map<string, EgressEntry>();

  add(entry: EgressEntry): void {
    let key = JSON.stringify([entry.host, entry.port, entry.refused]);
    let named = entry;
    if (!this.#entries.has(key) && this.#entries.size >= MAX_ENTRIES) {
      const { refused } = entry;
      key = JSON.stringify([OTHERS, refused !== undefined]);
      named = { ...entry, host: OTHERS, port: 0, ...(refused && { refused: 'see above' }) };
    }
    const before = this.#entries.get(key);
    this.#entries.set(key, {
      ...named,
      count: entry.count + (before?.count ?? 0),
      sentBytes: entry.sentBytes + (before?.sentBytes ?? 0),
      receivedBytes: entry.receivedBytes + (before?.receivedBytes ?? 0),
    });
  }

  entries(): EgressEntry[] {
    return [...this.#entries.values()];
  }
}

/**
 * IANA's registries of special addresses: this host, its network, its cloud's metadata. Of IPv6, all that is
 * not global unicast (2000::/3) or embeds an IPv4 address.
 */
const SPECIAL_IPV4 = [
  ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '169.254.0.0/16'],
  ...['172.16.0.0/12', '192.0.0.0/24', '192.0.2.0/24', '192.88.99.0/24', '192.168.0.0/16'],
  ...['198.18.0.0/15', '198.51.100.0/24', '203.0.113.0/24', '224.0.0.0/4', '240.0.0.0/4'],
];
const SPECIAL_IPV6 = ['2001::/23', '2001:db8::/32', '2002::/16', '3fff::/20'];

function blockList(subnets: readonly string[], family: 'ipv4' | 'ipv6'): BlockList {
  const list = new BlockList();
  for (const subnet of subnets) {
    const [address = '', prefix] = subnet.split('/');
    list.addSubnet(address, Number(prefix), family);
  }
  return list;
}

const special4 = blockList(SPECIAL_IPV4, 'ipv4');
const special6 = blockList(SPECIAL_IPV6, 'ipv6');
const global6 = blockList(['2000::/3'], 'ipv6');

export function isPublicAddress(address: string): boolean {
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  if (own.some((one) => one.address === address)) return false;
  if (isIP(address) === 4) return !special4.check(address, 'ipv4');
  if (isIP(address) !== 6 || address.includes('%')) return false;
  return global6.check(address, 'ipv6') && !special6.check(address, 'ipv6');
}
