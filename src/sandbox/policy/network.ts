import { randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import { defined } from '../../defined.ts';

/** A way of an interface to other networks. */
interface Route {
  /** NETWORK/PREFIX; of a gateway 0.0.0.0/0 or ::/0. */
  readonly to: string;
  readonly via: string;
}

/** An interface on a libvirt network. libvirt sets fixed addresses and routes before the init of a container runs. */
export interface LibvirtNetwork {
  readonly name: string;
  readonly mac?: string;
  /** IP/PREFIX. */
  readonly addresses: readonly string[];
  readonly routes: readonly Route[];
  /** Whether a DHCP server is asked for an IPv4 address. */
  readonly dhcp: boolean;
  readonly filter?: string;
  readonly filterParameters?: Readonly<Record<string, readonly string[]>>;
  /** Whether other sandboxes of the network are kept away; unless said, services are. */
  readonly isolated?: boolean;
}

/** `private`: its own, with `lo` alone; else also an interface for each of the list. */
export type SandboxNetwork = 'private' | 'host' | readonly LibvirtNetwork[];

/** Of libvirt's names for the interfaces of a container, in the order of its networks. */
export function interfaceName(nth: number): string {
  return `eth${nth}`;
}

const ANYWHERE = { 4: '0.0.0.0/0', 6: '::/0' } as const;

export function gatewayRoute(via: string): Route {
  return { to: ANYWHERE[isIP(via) === 6 ? 6 : 4], via };
}

export function isGateway({ to }: Route, version: 4 | 6): boolean {
  return to === ANYWHERE[version];
}

/** A TCP port of this host that leads to one of the sandbox's loopback. */
export interface PublishedPort {
  readonly address: string;
  readonly host: number;
  readonly sandbox: number;
}

/** `[ADDRESS:]HOSTPORT:SANDBOXPORT`; an IPv6 address is in brackets. Undefined for anything else. */
export function parsePublish(text: string): PublishedPort | undefined {
  const match = /^(?:(\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(\d{1,5}):(\d{1,5})$/.exec(text);
  const address = match?.[1]?.replace(/[[\]]/g, '') ?? LOOPBACK;
  const [host, sandbox] = [Number(match?.[2]), Number(match?.[3])];
  if (isIP(address) === 0 || !isPort(host) || !isPort(sandbox)) return undefined;
  return { address, host, sandbox };
}

export function formatPublish({ address, host, sandbox }: PublishedPort): string {
  const shown = address.includes(':') ? `[${address}]` : address;
  return address === LOOPBACK ? `${host}:${sandbox}` : `${shown}:${host}:${sandbox}`;
}

const LOOPBACK = '127.0.0.1';

function isPort(number: number): boolean {
  return Number.isInteger(number) && number >= 1 && number <= 65535;
}

/** The prefix of virtual interfaces, as libvirt and qemu use it. */
const PREFIX = ['52', '54', '00'];

export function virtualMac(bytes: Uint8Array): string {
  return [...PREFIX, ...Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

export function randomMac(): string {
  return virtualMac(randomBytes(3));
}

/** The version of IP, of an address, or one with a prefix behind `/`; 0 for anything else. */
export function versionOf(text: string): 0 | 4 | 6 {
  const [ip = '', prefix, ...more] = text.split('/');
  const version = isIP(ip) as 0 | 4 | 6;
  if (version === 0 || more.length > 0) return 0;
  if (prefix === undefined) return version;
  return /^\d{1,3}$/.test(prefix) && Number(prefix) <= (version === 6 ? 128 : 32) ? version : 0;
}

/** `NETWORK/PREFIX%GATEWAY`, as virt-sandbox had it. Undefined for anything else. */
export function parseRoute(text: string): Route | undefined {
  const [to = '', via = '', ...more] = text.split('%');
  const version = versionOf(to);
  const isRoute = to.includes('/') && isIP(via) !== 0 && isIP(via) === version && more.length === 0;
  return isRoute ? { to, via } : undefined;
}

/** Of 16 bytes, an IPv4 address in the first four. */
export function addressBytes(ip: string): Buffer {
  const bytes = Buffer.alloc(16);
  if (isIP(ip) === 4) {
    bytes.set(ip.split('.').map(Number));
    return bytes;
  }
  // URL writes all forms in one.
  const [head = '', tail = ''] = new URL(`http://[${ip.split('%')[0]}]`).hostname
    .slice(1, -1)
    .split('::');
  const groups = (text: string) => (text === '' ? [] : text.split(':'));
  const put = (group: string, at: number) => bytes.writeUInt16BE(Number.parseInt(group, 16), at);
  groups(head).forEach((group, nth) => void put(group, 2 * nth));
  groups(tail)
    .reverse()
    .forEach((group, nth) => void put(group, 14 - 2 * nth));
  return bytes;
}

const NAME = /^[\w.-]+$/;
const MAC = /^[\da-f]{2}(?::[\da-f]{2}){5}$/i;
/** The values that nwfilter accepts (libvirt's formatnwfilter page). */
const FILTER_VALUE = /^[\w.:/-]+$/;

const FLAGS: Readonly<Record<string, Partial<LibvirtNetwork>>> = {
  dhcp: { dhcp: true },
  peers: { isolated: false },
  isolated: { isolated: true },
};

/**
 * `NAME[,dhcp][,address=IP/PREFIX…][,gateway=IP…][,route=NETWORK/PREFIX%GATEWAY…][,mac=MAC][,filter=NAME
 * [,filter.VARIABLE=VALUE…]][,peers|isolated]`; what has dots behind it may come again. Without an address DHCP gives one.
 * @returns what is wrong with it, if that is known
 */
export function parseLibvirtNetwork(text: string): LibvirtNetwork | string | undefined {
  const [name = '', ...options] = text.split(',');
  let flags: Partial<LibvirtNetwork> = {};
  const given = new Map<string, string[]>();
  for (const option of options) {
    if (FLAGS[option] !== undefined) flags = { ...flags, ...FLAGS[option] };
    else {
      const [, key = '', value = ''] = /^([\w.]+)=(.*)$/.exec(option) ?? [];
      if (option.startsWith('dhcp6')) return NO_DHCP6;
      given.set(key, [...(given.get(key) ?? []), value]);
    }
  }
  const take = (key: string) => {
    const values = given.get(key) ?? [];
    given.delete(key);
    return values;
  };
  const routes = [...take('gateway').map(gatewayRoute), ...take('route').map(parseRoute)];
  const [[mac, ...macs], [filter, ...filters]] = [take('mac'), take('filter')];
  const addresses = take('address');
  if (macs.length + filters.length > 0 || routes.includes(undefined)) return undefined;
  const variables = [...given].filter(([key]) => /^filter\.\w+$/.test(key));
  if (variables.length < given.size) return undefined;
  const filterParameters = Object.fromEntries(
    variables.map(([key, values]) => [key.slice('filter.'.length), values]),
  );
  const network: LibvirtNetwork = {
    name,
    ...{ addresses, routes: routes.filter((route) => route !== undefined) },
    ...{ dhcp: addresses.length === 0, ...flags },
    ...defined({ mac, filter }),
    ...(variables.length > 0 ? { filterParameters } : {}),
  };
  return problemOf(network) ?? network;
}

/** As {@link parseLibvirtNetwork} reads it. */
function formatLibvirtNetwork(network: LibvirtNetwork): string {
  const { name, addresses, routes, dhcp, filterParameters = {}, isolated } = network;
  const isDefault = (route: Route) => isGateway(route, 4) || isGateway(route, 6);
  return [
    ...[name, ...(dhcp && addresses.length > 0 ? ['dhcp'] : [])],
    ...addresses.map((address) => `address=${address}`),
    ...routes.map((route) =>
      isDefault(route) ? `gateway=${route.via}` : `route=${route.to}%${route.via}`,
    ),
    ...(['mac', 'filter'] as const).flatMap((key) => network[key] && `${key}=${network[key]}`),
    ...Object.entries(filterParameters).flatMap(([key, values]) =>
      values.map((value) => `filter.${key}=${value}`),
    ),
    ...(isolated === undefined ? [] : [isolated ? 'isolated' : 'peers']),
  ]
    .filter((part) => part !== undefined)
    .join(',');
}

/** As words have it: those of several networks have spaces between them. */
export function formatNetwork(network: SandboxNetwork): string {
  return typeof network === 'string' ? network : network.map(formatLibvirtNetwork).join(' ');
}

const NO_DHCP6 = 'DHCP gives IPv4 addresses only; address= gives a fixed one of IPv6';

/** What is wrong with a network, however it was written; an empty text for what says nothing. */
export function problemOf(network: LibvirtNetwork): string | undefined {
  const { name, mac = '', addresses, routes, dhcp, filter, filterParameters = {} } = network;
  const values = Object.values(filterParameters).flat();
  const isWritten =
    NAME.test(name) &&
    (mac === '' || MAC.test(mac)) &&
    NAME.test(filter ?? 'none') &&
    addresses.every((address) => address.includes('/') && versionOf(address) !== 0) &&
    routes.every(({ to, via }) => isIP(via) !== 0 && versionOf(to) === isIP(via)) &&
    values.every((value) => FILTER_VALUE.test(value));
  if (!isWritten) return '';
  if (values.length > 0 && filter === undefined) return 'filter.VARIABLE is of a filter';
  for (const version of [4, 6] as const) {
    const has = addresses.some((address) => versionOf(address) === version);
    const ways = routes.filter(({ via }) => isIP(via) === version);
    if (ways.filter((route) => isGateway(route, version)).length > 1) return 'two gateways';
    if (dhcp && version === 4 && (has || ways.length > 0)) {
      return 'either dhcp, or an IPv4 address and its routes';
    }
    if (ways.length > 0 && !has) return `a route wants an address of IPv${version}`;
  }
  return undefined;
}
