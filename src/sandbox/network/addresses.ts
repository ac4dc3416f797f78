/** The addresses of a sandbox, before anything runs in it, and names for those of others. */
import type { StatePaths } from '../../host/state/paths.ts';
import type { SandboxControl } from '../command/control.ts';
import { listSandboxes } from '../domain/sandbox-record.ts';
import type { Neighbour } from '../policy/hosts.ts';
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

/**
 * The caller's own named sandboxes on these networks, as kiln's records have them: no sandbox, no other user and no
 * server of a network has a say.
 * @param owner a user who is not root
 */
export async function neighboursOn(
  paths: StatePaths,
  network: SandboxNetwork,
  owner: { readonly uid: number } | undefined,
): Promise<Neighbour[]> {
  if (typeof network === 'string') return [];
  const here = new Set(network.map(({ name }) => name));
  const listed = await listSandboxes(paths, { owner });
  return listed.flatMap(({ state, record }) => {
    const { knownAs: name, addresses = [] } = record;
    const isThere = state === 'running' || state === 'kept';
    if (!isThere || record.owner !== owner?.uid || name === undefined || name === 'localhost')
      return [];
    return addresses
      .filter((each) => here.has(each.network))
      .map(({ address }) => ({ name, address }));
  });
}
