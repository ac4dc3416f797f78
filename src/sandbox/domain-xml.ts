import { totalmem } from 'node:os';
import { KilnError } from '../errors.ts';
import type { IdRange } from './id-range.ts';
import { INIT_PATH } from './skeleton.ts';

/** What a generic box needs from libvirt; everything else is done at the claim. */
export interface DomainOptions {
  readonly name: string;
  readonly uuid: string;
  readonly skeleton: string;
  /** The folder that appears as /.kiln, where the init puts its socket. */
  readonly socketDirectory: string;
  readonly range: IdRange;
  /** `private`: an empty network namespace; else the name of a libvirt network, or the host's. */
  readonly network: 'private' | 'host' | { readonly name: string };
  /** SELinux: the init's context. */
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
  return {
    features: '<privnet/>',
    devices: `<interface type='network'><source network='${escapeXml(network.name)}'/></interface>`,
  };
}

/** What a box without a limit of its own may have of the host's memory: not the last of it. */
const MEMORY_SHARE = 0.9;

/**
 * kiln labels files itself: libvirt would give the skeleton, which all boxes share, one box's label.
 * Without a context nothing is said: `type='none'` is refused where libvirt has no such driver.
 */
function labelXml(context: string | undefined): string {
  if (context === undefined) return '';
  const label = `<label>${escapeXml(context)}</label>`;
  return `<seclabel type='static' model='selinux' relabel='no'>${label}</seclabel>`;
}

/**
 * The domain of a generic box (libvirt's formatdomain and drvlxc pages). A box's own limit of memory
 * is written to its cgroup at the claim. The skeleton is not `readonly` here but made
 * so by the init: libvirt's remount drops nosuid and nodev of the file system it lies on, which a
 * user namespace may not, and fails where KILN_STATE is on such a one (a tmpfs, a hardened /var).
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
