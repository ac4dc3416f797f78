import { randomBytes } from 'node:crypto';
import { isIP } from 'node:net';
import type { LibvirtNetwork } from '../domain/domain-xml.ts';

/** The prefix of virtual interfaces, as libvirt and qemu use it. */
const PREFIX = ['52', '54', '00'];

/** The Ethernet address of a virtual interface. @param bytes three, the part that is its own */
export function virtualMac(bytes: Uint8Array): string {
  return [...PREFIX, ...Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

/** An address for an interface that is used once. */
export function randomMac(): string {
  return virtualMac(randomBytes(3));
}

/** Checks the value of each option of a network. */
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

/**
 * Parses a libvirt network, `NAME[,address=IP/PREFIX[,gateway=IP]][,mac=MAC]`. Without an address the sandbox
 * asks for one by DHCP. Undefined for anything else.
 */
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
