import { randomBytes } from 'node:crypto';
import { isIP, isIPv6 } from 'node:net';
import { totalmem } from 'node:os';
import { KilnError } from '../../errors.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import { INIT_PATH } from './skeleton.ts';

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

export interface DomainOptions {
  readonly name: string;
  readonly uuid: string;
  readonly skeleton: string;
  readonly socketDirectory: string;
  readonly range: IdRange;
  readonly network: 'private' | 'host' | LibvirtNetwork;
  readonly context?: string;
}

function escapeXml(text: string): string {
  return text.replace(/[<>&'"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

function networkXml(network: DomainOptions['network']): { features: string; devices: string } {
  if (network === 'private') return { features: '<privnet/>', devices: '' };
  if (network === 'host') return { features: '', devices: '' };
  if (!/^[\w.-]+$/.test(network.name)) {
    throw new KilnError('E_ARGUMENT', `not the name of a libvirt network: ${network.name}`, {
      hint: '`virsh net-list` shows the names',
    });
  }
  return { features: '<privnet/>', devices: interfaceXml(network) };
}

function interfaceXml(network: LibvirtNetwork): string {
  const { name, mac, address, gateway, isolated } = network;
  const [ip = '', prefix] = address?.split('/') ?? [];
  const family = isIPv6(ip) ? 'ipv6' : 'ipv4';
  if (address !== undefined && (isIP(ip) === 0 || !/^\d{1,3}$/.test(prefix ?? ''))) {
    throw new KilnError('E_ARGUMENT', `not an address with its prefix: ${address}`, {
      hint: 'write it as 192.168.122.7/24',
    });
  }
  const any = family === 'ipv6' ? '::' : '0.0.0.0';
  return [
    `<interface type='network'><source network='${escapeXml(name)}'/>`,
    mac && `<mac address='${escapeXml(mac)}'/>`,
    address && `<ip address='${ip}' family='${family}' prefix='${prefix}'/>`,
    gateway &&
      `<route family='${family}' address='${any}' prefix='0' gateway='${escapeXml(gateway)}'/>`,
    filterXml(network),
    isolated === true && "<port isolated='yes'/>",
    '</interface>',
  ]
    .filter(Boolean)
    .join('');
}

function filterXml({ filter, filterParameters = {} }: LibvirtNetwork): string {
  if (filter === undefined) return '';
  const parameters = Object.entries(filterParameters).flatMap(([name, values]) =>
    values.map((value) => `<parameter name='${escapeXml(name)}' value='${escapeXml(value)}'/>`),
  );
  return `<filterref filter='${escapeXml(filter)}'>${parameters.join('')}</filterref>`;
}

/** The share of the host's memory for a sandbox without a limit of its own: some must stay free. */
const MEMORY_SHARE = 0.9;

/**
 * kiln labels files itself, because libvirt would give the skeleton, which all sandboxes share, the label of one.
 * libvirt refuses `type='none'` where it has no security driver.
 */
function labelXml(context: string | undefined): string {
  if (context === undefined) return '';
  const label = `<label>${escapeXml(context)}</label>`;
  return `<seclabel type='static' model='selinux' relabel='no'>${label}</seclabel>`;
}

/**
 * See libvirt's formatdomain and drvlxc pages. The claim writes the memory limit to the cgroup. The skeleton is
 * not `readonly` here; the init makes it so: libvirt's remount would drop nosuid and nodev of the file system
 * below, which a user namespace may not do.
 */
export function domainXml(options: DomainOptions): string {
  const { features, devices } = networkXml(options.network);
  const { base, count } = options.range;
  const map = `start='0' target='${base}' count='${count}'`;
  return `<domain type='lxc'>
  <name>${escapeXml(options.name)}</name>
  <uuid>${escapeXml(options.uuid)}</uuid>
  <memory unit='b'>${Math.floor(totalmem() * MEMORY_SHARE)}</memory>
  <vcpu>1</vcpu>
  <os><type>exe</type><init>${INIT_PATH}</init></os>
  <idmap><uid ${map}/><gid ${map}/></idmap>
  <features>${features}</features>
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <filesystem type='mount'><source dir='${escapeXml(options.skeleton)}'/><target dir='/'/></filesystem>
    <filesystem type='mount'><source dir='${escapeXml(options.socketDirectory)}'/><target dir='/.kiln'/></filesystem>
    ${devices}
    <console type='pty'/>
  </devices>
  ${labelXml(options.context)}
</domain>`;
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
