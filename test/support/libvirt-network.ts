import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { StatePaths } from '../../src/host/state/paths.ts';
import { PATIENCE } from './busybox-state.ts';

/** Calls virsh on the embedded libvirtd of a state, which has to run. Never rejects. */
export function virsh(paths: StatePaths, ...args: readonly string[]) {
  const uri = `lxc+unix:///system?socket=${join(paths.run, 'libvirt/libvirt-sock')}`;
  return execa('virsh', ['-q', '-c', uri, ...args], { reject: false, timeout: 60_000 * PATIENCE });
}

/** What a network of a test is like. */
export interface TestNetwork {
  readonly name: string;
  readonly bridge: string;
  /** The host's address there. */
  readonly host: string;
  /** The element's content: what DHCP gives. Nothing is given where it is empty. */
  readonly dhcp: string;
  /** More elements, such as `<dns>`. */
  readonly more?: string;
}

/**
 * Options of dnsmasq(8). Without the first it asks three seconds long whether somebody has an address before it gives
 * it; without the second it asks the host's name servers what it does not know itself, and they may be out of reach.
 */
const DNSMASQ = ['no-ping', 'no-resolv']
  .map((option) => `<dnsmasq:option value='${option}'/>`)
  .join('');

/** Makes a network whose addresses libvirt's own dnsmasq gives, without a firewall. */
export async function createNetwork(paths: StatePaths, network: TestNetwork): Promise<void> {
  const { name, bridge, host, dhcp, more = '' } = network;
  const file = join(paths.root, `${name}.xml`);
  await writeFile(
    file,
    `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
     <name>${name}</name><forward mode='open'/>
     <bridge name='${bridge}' stp='off' delay='0'/>${more}
     <ip address='${host}' netmask='255.255.255.0'>${dhcp}</ip>
     <dnsmasq:options>${DNSMASQ}</dnsmasq:options></network>`,
  );
  const { exitCode, stderr } = await virsh(paths, 'net-create', file);
  if (exitCode !== 0) throw new Error(stderr);
}
