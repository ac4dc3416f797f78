/** The addresses of a sandbox, before anything runs in it. */
import type { SandboxControl } from '../command/control.ts';
import {
  interfaceName,
  isGateway,
  type LibvirtNetwork,
  type SandboxNetwork,
} from '../policy/network.ts';
import { type LeasedAddress, type LeaseWatch, leaseAddress } from './dhcp-client.ts';

interface Interface {
  readonly name: string;
  readonly network: LibvirtNetwork;
}

export function interfacesOf(network: SandboxNetwork): Interface[] {
  if (typeof network === 'string') return [];
  return network.map((each, nth) => ({ name: interfaceName(nth), network: each }));
}

const hasGateway = ({ network }: Interface) => network.routes.some((route) => isGateway(route, 4));

/**
 * Asks for leases, one after the other: the first gateway that is told has the way out, unless one was given.
 * @param setFixed gives an interface its fixed addresses
 * @param leases gets them as they come, since the caller closes them
 * @returns the sandbox's own addresses, on each of its networks
 * @throws KilnError E_NO_LEASE, E_SETUP, E_MACHINE, and the signal's reason
 */
export async function giveAddresses(
  control: SandboxControl,
  interfaces: readonly Interface[],
  setFixed: (nth: number, network: LibvirtNetwork) => Promise<void>,
  leases: LeasedAddress[],
  how: LeaseWatch & { readonly hostname: string },
) {
  const given: { readonly network: string; readonly address: string }[] = [];
  for (const [nth, { name, network }] of interfaces.entries()) {
    const { mac = '', dhcp, addresses } = network;
    if (dhcp) {
      const isTaken = interfaces.some(hasGateway) || leases.some(({ gateway }) => gateway);
      const lease = await leaseAddress(control, name, { ...how, mac, takesGateway: !isTaken });
      leases.push(lease);
      given.push({ network: network.name, address: lease.address });
    }
    await setFixed(nth, network);
    for (const each of addresses) {
      given.push({ network: network.name, address: each.split('/')[0] ?? '' });
    }
  }
  return given;
}
