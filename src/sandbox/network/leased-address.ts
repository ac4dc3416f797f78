import { awaitedLater } from '../../promise.ts';
import type { BoxControl } from '../control.ts';
import { DhcpClient } from './dhcp-client.ts';
import type { DhcpAnswer } from './dhcp-message.ts';

/** What libvirt calls the first interface of a container. */
export const INTERFACE = 'eth0';

/** Who asks. */
export interface LeaseRequest {
  /** `52:54:00:…` */
  readonly mac: string;
  readonly hostname: string;
  /** Told of each lease that changes something, once it is in use. */
  readonly onLease?: (lease: DhcpAnswer) => void;
  /** Aborts the wait for an address. */
  readonly signal?: AbortSignal | undefined;
}

/** The address that a sandbox has from its network, for as long as somebody renews it. */
export interface LeasedAddress {
  readonly address: string;
  readonly nameServers: readonly string[];
  /** Resolves when the network has taken it back, with the reason where there is one. */
  readonly lost: Promise<unknown>;
  /** Renews it no more. Safe to call again. */
  close(): void;
}

/**
 * Has the sandbox's interface get its address by DHCP, before anything runs in it, and keeps the lease.
 * Throws E_NO_LEASE, E_SETUP, and the signal's reason.
 */
export async function leaseAddress(
  control: BoxControl,
  { mac, hostname, onLease, signal }: LeaseRequest,
): Promise<LeasedAddress> {
  signal?.throwIfAborted();
  const hardware = Buffer.from(mac.replaceAll(':', ''), 'hex');
  const client = new DhcpClient(await control.dhcpSocket(INTERFACE), { hardware, hostname });
  const abort = () => client.close();
  signal?.addEventListener('abort', abort, { once: true });
  let inUse = '';
  let current: DhcpAnswer | undefined;
  const use = async (lease: DhcpAnswer): Promise<void> => {
    const { address, mask, gateway } = lease;
    const wanted = JSON.stringify([address, mask, gateway, lease.nameServers]);
    if (wanted === inUse) return;
    await control.setAddress(INTERFACE, {
      address,
      mask,
      ...(gateway === undefined ? {} : { gateway }),
    });
    inUse = wanted;
    current = lease;
    onLease?.(lease);
  };
  try {
    const lease = await client.lease();
    await use(lease);
    const lost = awaitedLater(client.keep(lease, use).catch((error: unknown) => error));
    return {
      get address() {
        return current?.address ?? '';
      },
      get nameServers() {
        return current?.nameServers ?? [];
      },
      lost,
      close: () => client.close(),
    };
  } catch (error) {
    client.close();
    signal?.throwIfAborted();
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}
