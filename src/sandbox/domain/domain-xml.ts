import { totalmem } from 'node:os';
import type { IdRange } from '../../host/state/reservation.ts';
import { type LibvirtNetwork, type SandboxNetwork, versionOf } from '../policy/network.ts';
import { INIT_PATH } from './skeleton.ts';

export interface DomainOptions {
  readonly name: string;
  readonly uuid: string;
  readonly skeleton: string;
  readonly socketDirectory: string;
  readonly range: IdRange;
  readonly network: SandboxNetwork;
  readonly context?: string;
}

export function escapeXml(text: string): string {
  return text.replace(/[<>&'"]/g, (c) => `&#${c.charCodeAt(0)};`);
}

function networkXml(network: DomainOptions['network']): { features: string; devices: string } {
  if (network === 'private') return { features: '<privnet/>', devices: '' };
  if (network === 'host') return { features: '', devices: '' };
  return { features: '<privnet/>', devices: network.map((each) => interfaceXml(each)).join('') };
}

/** How libvirt gives a container its addresses; in a machine it cannot. */
function addressXml({ addresses, routes }: LibvirtNetwork): string {
  const family = (ip: string) => `family='${versionOf(ip) === 6 ? 'ipv6' : 'ipv4'}'`;
  const ips = addresses.map((address) => {
    const [ip = '', prefix = ''] = address.split('/');
    return `<ip address='${escapeXml(ip)}' ${family(ip)} prefix='${escapeXml(prefix)}'/>`;
  });
  const ways = routes.map(({ to, via }) => {
    const [ip = '', prefix = ''] = to.split('/');
    return `<route ${family(ip)} address='${escapeXml(ip)}' prefix='${escapeXml(prefix)}' gateway='${escapeXml(via)}'/>`;
  });
  return [...ips, ...ways].join('');
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
export function labelXml(context: string | undefined): string {
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
