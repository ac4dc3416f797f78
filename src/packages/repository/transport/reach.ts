/**
 * Decides which addresses a download may connect to. kiln runs on the host, often as root: what others write (a
 * build recipe, a redirect, a list of mirrors) must not make it call services of this host, of its network, or
 * of its cloud.
 */
import { type LookupAddress, type LookupOptions, lookup } from 'node:dns';
import { lookup as lookupAll } from 'node:dns/promises';
import { isIP, type LookupFunction } from 'node:net';
import { ownEnvironment } from '../../../host/process/own-process.ts';
import { isPublicAddress } from '../../../host/sockets/unix-socket.ts';

/**
 * `public`: addresses on the public Internet. `named`: any address, for a URL that the caller or the author of
 * an image recipe wrote.
 */
export type Reach = 'public' | 'named';

/** An address that may not be connected to. */
export class AddressRefused extends Error {
  constructor(host: string, address: string) {
    const what = host === address ? `${host} is` : `${host} is ${address},`;
    super(`${what} not a public address`);
  }
}

/**
 * Refuses a URL whose host is written as a non-public address, since Node makes no look-up then. If a proxy
 * makes the look-up, names that this host resolves to private addresses are refused, too.
 * @throws AddressRefused
 */
export async function checkHost(url: URL): Promise<void> {
  const host = hostOf(url);
  if (isIP(host) !== 0) {
    if (!isPublicAddress(host)) throw new AddressRefused(host, host);
    return;
  }
  if (!hasProxy(url)) return;
  for (const { address } of await lookupAll(host, { all: true }).catch(() => [])) {
    if (!isPublicAddress(address)) throw new AddressRefused(host, address);
  }
}

/**
 * A look-up for connections to `host`: the connection goes to the address that was checked, whatever the name
 * server answers next. A proxy's host is the caller's choice and is not checked.
 */
export function publicLookup(host: string): LookupFunction {
  return (name, options, callback) => {
    const all: LookupOptions & { all: true } = { ...options, all: true };
    lookup(name, all, (error, found) => {
      if (error !== null) return callback(error, '', 0);
      const allowed = name === host ? found.filter(isPublic) : found;
      const [first] = allowed;
      if (first === undefined) {
        return callback(new AddressRefused(name, found[0]?.address ?? 'nothing'), '', 0);
      }
      if (options.all === true) callback(null, allowed);
      else callback(null, first.address, first.family);
    });
  };
}

/**
 * The addresses that a server may send kiln on to: non-public ones only if the server itself has one, such as a
 * mirror list in a company's network.
 * @param address where the server answered from, if that is known; it may be a proxy
 */
export async function reachThrough(url: URL, address: string | undefined): Promise<Reach> {
  if (address !== undefined && isPublicAddress(plain(address))) return 'public';
  const host = hostOf(url);
  if (isIP(host) !== 0) return isPublicAddress(host) ? 'public' : 'named';
  const found = await lookupAll(host, { all: true }).catch(() => []);
  return found.length > 0 && !found.some(isPublic) ? 'named' : 'public';
}

function isPublic({ address }: LookupAddress): boolean {
  return isPublicAddress(address);
}

/** The host without the brackets of an IPv6 address. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1');
}

/** An IPv4 address in the IPv6 form that a socket for both versions reports. */
function plain(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/, '');
}

function hasProxy({ protocol }: URL): boolean {
  const name = `${protocol.slice(0, -1)}_proxy`;
  return Boolean(ownEnvironment[name] || ownEnvironment[name.toUpperCase()]);
}
