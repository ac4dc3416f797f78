import { isIP, isIPv6 } from 'node:net';
import { totalmem } from 'node:os';
import { KilnError } from '../../errors.ts';
import type { IdRange } from '../../host/state/reservation.ts';
import type { LibvirtNetwork } from '../policy/network.ts';
import { INIT_PATH } from './skeleton.ts';

export interface DomainOptions {
  readonly name: string;
  readonly uuid: string;
  readonly skeleton: string;
  readonly socketDirectory: string;
  readonly range: IdRange;
  readonly network: 'private' | 'host' | LibvirtNetwork;
  readonly context?: string;
}

export function escapeXml(text: string): string {
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

/** How libvirt gives a container its address; in a machine it cannot. */
function addressXml({ address, gateway }: LibvirtNetwork): string {
  if (address === undefined) return '';
  const [ip = '', prefix] = address.split('/');
  if (isIP(ip) === 0 || !/^\d{1,3}$/.test(prefix ?? '')) {
    throw new KilnError('E_ARGUMENT', `not an address with its prefix: ${address}`, {
      hint: 'write it as 192.168.122.7/24',
    });
  }
  const [family, any] = isIPv6(ip) ? ['ipv6', '::'] : ['ipv4', '0.0.0.0'];
  const route =
    gateway &&
    `<route family='${family}' address='${any}' prefix='0' gateway='${escapeXml(gateway)}'/>`;
  return `<ip address='${ip}' family='${family}' prefix='${prefix}'/>${route ?? ''}`;
}

/** With the host's kernel (vhost) a guest would talk to that, and not to the confined qemu. */
export const MACHINE_CARD = "<model type='virtio'/><driver name='qemu'/>";

export function interfaceXml(network: LibvirtNetwork, how = addressXml(network)): string {
  const { name, mac, isolated } = network;
  return [
    `<interface type='network'><source network='${escapeXml(name)}'/>`,
    mac && `<mac address='${escapeXml(mac)}'/>`,
    how,
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
