import { randomBytes } from 'node:crypto';

/** The prefix of virtual machines' interfaces, as libvirt and qemu use it. */
const PREFIX = ['52', '54', '00'];

/** The Ethernet address of a virtual interface. @param bytes three, the part that is its own */
export function virtualMac(bytes: Uint8Array): string {
  return [...PREFIX, ...Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0'))].join(':');
}

/** One for an interface that lives once. */
export function randomMac(): string {
  return virtualMac(randomBytes(3));
}
