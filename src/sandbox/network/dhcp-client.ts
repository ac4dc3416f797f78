import { randomInt } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { addAbortListener } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { KilnError } from '../../errors.ts';
import { LONGEST_WAIT } from '../../host/process/wait-for.ts';
import { awaitedLater, deferred } from '../../promise.ts';
import type { SandboxControl } from '../command/control.ts';
import {
  DHCP,
  type DhcpAnswer,
  type DhcpQuestion,
  type DhcpWish,
  decodeDhcp,
  encodeDhcp,
} from './dhcp-message.ts';

const SERVER_PORT = 67;
/** As the init takes an address that there is not. */
const NONE = '0.0.0.0';
const EVERYBODY = '255.255.255.255';

/** A bridge with STP forwards nothing for the first half minute, ms. */
const PATIENCE = 60_000;
/** The pause before the first repetition, ms; it doubles each time (RFC 2131, 4.1). */
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 8000;
/** The shortest pause before a renewal, even if the server wants an earlier one, ms. */
const LEAST_RENEWAL = 1000;

interface DhcpIdentity {
  readonly hardware: Buffer;
  readonly hostname: string;
}

class DhcpClient {
  readonly #socket: Socket;
  readonly #identity: DhcpIdentity;
  readonly #over = new AbortController();

  constructor(fd: number, identity: DhcpIdentity) {
    this.#identity = identity;
    this.#socket = createSocket('udp4');
    // The interface is gone: nobody answers.
    this.#socket.on('error', () => undefined);
    this.#socket.bind({ fd });
    this.#socket.unref();
  }

  async lease(): Promise<DhcpAnswer> {
    const deadline = Date.now() + PATIENCE;
    while (Date.now() < deadline) {
      const isOffer = ({ type, lease }: DhcpAnswer) => type === DHCP.offer && lease > 0;
      const offer = await this.#ask({ type: DHCP.discover }, EVERYBODY, deadline, isOffer);
      if (offer === undefined) break;
      const { address: requested, server } = offer;
      const until = Math.min(deadline, Date.now() + 4 * FIRST_PAUSE);
      const lease = await this.#request({ requested, server }, EVERYBODY, until);
      if (lease !== undefined) return lease;
    }
    throw new KilnError(
      'E_NO_LEASE',
      `no DHCP server gave an address within ${PATIENCE / 1000} s`,
      {
        hint: 'has the network DHCP? `virsh net-dumpxml NAME` shows it; address= gives a fixed one',
      },
    );
  }

  async keep(first: DhcpAnswer, renewed: (lease: DhcpAnswer) => Promise<void>): Promise<void> {
    for (let lease = first; ; ) {
      const begun = Date.now();
      await this.#sleep(Math.max(lease.renewal * 1000, LEAST_RENEWAL));
      const current = lease.address;
      const next =
        (await this.#request({ current }, lease.server, begun + lease.rebinding * 1000)) ??
        (await this.#request({ current }, EVERYBODY, begun + lease.lease * 1000));
      if (next === undefined || this.#over.signal.aborted) return;
      await renewed(next);
      lease = next;
    }
  }

  close(): void {
    if (this.#over.signal.aborted) return;
    this.#over.abort();
    this.#socket.close();
  }

  async #request(what: DhcpWish, to: string, deadline: number): Promise<DhcpAnswer | undefined> {
    const isAnswer = ({ type }: DhcpAnswer) => type === DHCP.ack || type === DHCP.nak;
    const answer = await this.#ask({ type: DHCP.request, ...what }, to, deadline, isAnswer);
    return answer?.type === DHCP.ack && answer.lease > 0 ? answer : undefined;
  }

  async #ask(
    request: DhcpQuestion,
    to: string,
    deadline: number,
    take: (answer: DhcpAnswer) => boolean,
  ): Promise<DhcpAnswer | undefined> {
    const transaction = randomInt(2 ** 32);
    const message = encodeDhcp({ ...request, ...this.#identity, transaction });
    const answered = deferred<DhcpAnswer>();
    const hear = (bytes: Buffer) => {
      const answer = decodeDhcp(bytes, this.#identity.hardware);
      if (answer?.transaction === transaction && take(answer)) answered.resolve(answer);
    };
    this.#socket.on('message', hear);
    try {
      let pause = FIRST_PAUSE;
      while (Date.now() < deadline && !this.#over.signal.aborted) {
        // Ignore errors: the bridge may be down now and up in a moment.
        this.#socket.send(message, SERVER_PORT, to, () => undefined);
        const wait = awaitedLater(this.#sleep(Math.min(pause, deadline - Date.now())));
        const answer = await Promise.race([answered.promise, wait]);
        if (answer !== undefined) return answer;
        pause = Math.min(pause * 2, LONGEST_PAUSE);
      }
      return undefined;
    } finally {
      this.#socket.off('message', hear);
    }
  }

  async #sleep(milliseconds: number): Promise<undefined> {
    const signal = this.#over.signal;
    const time = Math.min(milliseconds, LONGEST_WAIT);
    await sleep(time, undefined, { signal, ref: false }).catch(() => undefined);
  }
}

/** Who waits for leases. */
export interface LeaseWatch {
  readonly onLease?: ((lease: Leased) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface LeaseRequest extends LeaseWatch {
  readonly mac: string;
  readonly hostname: string;
  /** Whether the gateway that the server tells is taken. */
  readonly takesGateway: boolean;
}

/** What a server gives, for the first time or anew. */
interface Leased extends DhcpAnswer {
  readonly interface: string;
}

export interface LeasedAddress {
  readonly address: string;
  readonly gateway: string | undefined;
  readonly nameServers: readonly string[];
  readonly lost: Promise<unknown>;
  close(): void;
}

/**
 * Gets an address before anything runs in the sandbox, and renews it. Throws E_NO_LEASE, E_SETUP, and the
 * signal's reason.
 */
export async function leaseAddress(
  control: SandboxControl,
  name: string,
  { mac, hostname, takesGateway, onLease, signal }: LeaseRequest,
): Promise<LeasedAddress> {
  signal?.throwIfAborted();
  const hardware = Buffer.from(mac.replaceAll(':', ''), 'hex');
  const client = new DhcpClient(await control.dhcpSocket(name), { hardware, hostname });
  using _abort = signal && addAbortListener(signal, () => client.close());
  let inUse = '';
  let current: DhcpAnswer | undefined;
  const use = async (lease: DhcpAnswer): Promise<void> => {
    const { address, mask } = lease;
    const gateway = (takesGateway && lease.gateway) || NONE;
    const wanted = JSON.stringify([address, mask, gateway, lease.nameServers]);
    if (wanted === inUse) return;
    await control.setAddress(name, { address, mask, gateway });
    inUse = wanted;
    current = lease;
    onLease?.({ ...lease, interface: name });
  };
  try {
    const lease = await client.lease();
    await use(lease);
    const lost = awaitedLater(client.keep(lease, use).catch((error: unknown) => error));
    return {
      get address() {
        return current?.address ?? '';
      },
      gateway: lease.gateway,
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
  }
}
