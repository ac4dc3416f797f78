import { awaitedLater } from '../../promise.ts';
import { reasonOf } from '../failure.ts';
import type { UnitHost } from '../unit-host.ts';
import { DhcpClient } from './client.ts';
import type { DhcpAnswer } from './message.ts';
import { writeNameServers } from './name-servers.ts';

/** What libvirt calls the first interface of a container. */
const INTERFACE = 'eth0';

/** Who asks. */
export interface LeaseRequest {
  /** `52:54:00:…` */
  readonly mac: string;
  readonly hostname: string;
  /** The service's own /etc, on the host. */
  readonly etc: string;
}

/** The address that a service has from the network, for as long as it runs. */
export interface LeasedAddress {
  readonly address: string;
  /** Resolves when the network has taken it back. */
  readonly lost: Promise<void>;
  close(): void;
}

/**
 * Has the box's interface get its address by DHCP, before anything runs in it, and keeps the lease.
 * Throws E_NO_LEASE, E_SERVICE_BOX.
 */
export async function leaseAddress(
  { control, log }: UnitHost,
  { mac, hostname, etc }: LeaseRequest,
): Promise<LeasedAddress> {
  const hardware = Buffer.from(mac.replaceAll(':', ''), 'hex');
  const client = new DhcpClient(await control.dhcpSocket(INTERFACE), { hardware, hostname });
  let current = { wanted: '', address: '' };
  const use = async (lease: DhcpAnswer): Promise<void> => {
    const { address, mask, gateway } = lease;
    const wanted = JSON.stringify([address, mask, gateway, lease.nameServers]);
    if (wanted === current.wanted) return;
    await control.setAddress(INTERFACE, {
      address,
      mask,
      ...(gateway === undefined ? {} : { gateway }),
    });
    writeNameServers(etc, lease.nameServers);
    current = { wanted, address };
    log.write('kiln', `${INTERFACE} has ${address}, leased by ${lease.server}`);
  };
  try {
    const lease = await client.lease();
    await use(lease);
    const lost = awaitedLater(
      client.keep(lease, use).catch((error) => log.write('kiln', reasonOf(error))),
    );
    return {
      get address() {
        return current.address;
      },
      lost,
      close: () => client.close(),
    };
  } catch (error) {
    client.close();
    throw error;
  }
}
