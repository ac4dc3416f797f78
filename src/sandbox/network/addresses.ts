/** The addresses of a sandbox, before anything runs in it. */
import type { SandboxControl } from '../command/control.ts';
import {
  interfaceName,
  isGateway,
  type LibvirtNetwork,
  type SandboxNetwork,
} from '../policy/network.ts';
import type { Parts } from '../wire/table.ts';
import { type LeasedAddress, type LeaseRequest, leaseAddress, NONE } from './dhcp-client.ts';

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
 * @param unset whether fixed addresses are not there yet: libvirt gives them to a container before its init runs
 * @param leases gets them as they come, since the caller closes them
 * @returns the sandbox's own addresses, on each of its networks
 * @throws KilnError E_NO_LEASE, E_SETUP, and the signal's reason
 */
export async function giveAddresses(
  control: SandboxControl,
  interfaces: readonly Interface[],
  unset: boolean,
  leases: LeasedAddress[],
  how: Pick<LeaseRequest, 'hostname' | 'onLease' | 'signal'>,
) {
  const given: { readonly network: string; readonly address: string }[] = [];
  for (const { name, network } of interfaces) {
    const { mac = '', dhcp, addresses } = network;
    if (dhcp) {
      const isTaken = interfaces.some(hasGateway) || leases.some(({ gateway }) => gateway);
      const lease = await leaseAddress(control, name, { ...how, mac, takesGateway: !isTaken });
      leases.push(lease);
      given.push({ network: network.name, address: lease.address });
    }
    const fixed = fixedAddress(network);
    if (unset && fixed !== undefined) await control.setAddress(name, fixed);
    for (const each of addresses) {
      given.push({ network: network.name, address: each.split('/')[0] ?? '' });
    }
  }
  return given;
}

/** As the init takes it. The mask is for machines, which have one address, of IPv4. */
function fixedAddress({ addresses, routes }: LibvirtNetwork): Parts<'address'> | undefined {
  const [address = '', prefix] = addresses[0]?.split('/') ?? [];
  if (address === '') return undefined;
  const mask = Buffer.alloc(4);
  mask.writeUInt32BE((2 ** 32 - 2 ** (32 - Number(prefix))) >>> 0);
  return { address, mask: [...mask].join('.'), gateway: routes[0]?.via ?? NONE };
}
