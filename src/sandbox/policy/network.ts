import { randomBytes } from 'node:crypto';
import { isIP } from 'node:net';

/** An interface on a libvirt network. libvirt sets a fixed address before the sandbox's init runs. */
export interface LibvirtNetwork {
  readonly name: string;
  readonly mac?: string;
  readonly address?: string;
  /** False if kiln must not ask for an address: whoever opens the sandbox does, or nobody. */
  readonly dhcp?: false;
  readonly gateway?: string;
  readonly filter?: string;
  readonly filterParameters?: Readonly<Record<string, readonly string[]>>;
  readonly isolated?: boolean;
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

const OPTIONS: Readonly<Record<string, (value: string) => boolean>> = {
  address: (value) => {
    const [ip = '', prefix = '', ...more] = value.split('/');
    const most = isIP(ip) === 6 ? 128 : 32;
    return (
      isIP(ip) !== 0 && /^\d{1,3}$/.test(prefix) && Number(prefix) <= most && more.length === 0
    );
  },
  gateway: (value) => isIP(value) !== 0,
  mac: (value) => /^[\da-f]{2}(?::[\da-f]{2}){5}$/i.test(value),
};

/** `NAME[,address=IP/PREFIX[,gateway=IP]][,mac=MAC]`; without an address DHCP gives one. Else undefined. */
export function parseLibvirtNetwork(text: string): LibvirtNetwork | undefined {
  const [name = '', ...options] = text.split(',');
  if (!/^[\w.-]+$/.test(name)) return undefined;
  const given: Record<string, string> = {};
  for (const option of options) {
    const [, key = '', value = ''] = /^(\w+)=(.*)$/.exec(option) ?? [];
    if (OPTIONS[key]?.(value) !== true || key in given) return undefined;
    given[key] = value;
  }
  if (given.gateway !== undefined && given.address === undefined) return undefined;
  return { name, ...given };
}
