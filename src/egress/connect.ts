import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { connect, isIP, type Socket } from 'node:net';
import { isPublicAddress } from '../kernel/unix-socket.ts';
import { canonicalHost, type EgressRule, isListed } from './rule.ts';

/** How long a server may take to accept a connection, ms. */
const CONNECT_MS = 15_000;

/** Addresses of one name that are tried. */
const ADDRESSES = 8;

/** Why a box does not get what it asked for, and with which status of HTTP. */
export class Refusal extends Error {
  readonly status: 400 | 403 | 502 | 504;

  constructor(status: Refusal['status'], message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * Connects to a host of the list. A name is looked up once, and what is connected to is one of the
 * addresses that were found and judged: an answer that changes does not help. Addresses that are not
 * the internet's are left out unless the list names them. Throws a {@link Refusal}.
 */
export async function connectListed(
  rules: readonly EgressRule[],
  wanted: string,
  port: number,
): Promise<Socket> {
  const host = canonicalHost(wanted);
  if (host === undefined) throw new Refusal(400, 'not a host');
  if (!isListed(rules, host, port)) throw new Refusal(403, 'not on the list');
  const addresses = isIP(host) === 0 ? await resolve(rules, host, port) : [host];
  let last: unknown;
  for (const address of addresses) {
    try {
      return await open(address, port);
    } catch (error) {
      last = error;
    }
  }
  if (last instanceof Refusal) throw last;
  const code = (last as NodeJS.ErrnoException | undefined)?.code ?? 'failed';
  throw new Refusal(502, `cannot be reached: ${code}`);
}

async function resolve(
  rules: readonly EgressRule[],
  host: string,
  port: number,
): Promise<readonly string[]> {
  const found = await lookup(host, { all: true }).catch((error: NodeJS.ErrnoException) => {
    throw new Refusal(502, `cannot be resolved: ${error.code ?? 'failed'}`);
  });
  const allowed = found
    .map(({ address }) => address)
    .filter((address) => isPublicAddress(address) || isListed(rules, address, port));
  if (allowed.length > 0) return allowed.slice(0, ADDRESSES);
  throw new Refusal(403, 'its address is not public, and not on the list');
}

async function open(address: string, port: number): Promise<Socket> {
  const socket = connect({ host: address, port, allowHalfOpen: true });
  const timer = setTimeout(() => socket.destroy(new Refusal(504, 'does not answer')), CONNECT_MS);
  try {
    await once(socket, 'connect');
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
