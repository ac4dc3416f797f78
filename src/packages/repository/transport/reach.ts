/**
 * Decides which addresses a download may connect to, and by which way. kiln runs on the host, often as root: a build
 * recipe, a redirect or a list of mirrors must not make it call services of this host, of its network, or of its cloud.
 */
import { type LookupAddress, type LookupOptions, lookup } from 'node:dns';
import { lookup as lookupAll } from 'node:dns/promises';
import { isIP, type LookupFunction } from 'node:net';
import { defined } from '../../../defined.ts';
import { isPublicAddress } from '../../../egress/rule.ts';
import { ownEnvironment } from '../../../host/process/own-process.ts';
import { awaitedLater } from '../../../promise.ts';

/**
 * `public`: addresses on the public Internet. `named`: any address, for a URL that the caller or the author of
 * an image recipe wrote.
 */
export type Reach = 'public' | 'named';

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
  const proxy = `${url.protocol.slice(0, -1)}_proxy`;
  if ((await proxyEnvironment())[proxy] === undefined) return;
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
  // A socket for both versions reports an IPv4 address in an IPv6 form.
  const from = address?.replace(/^::ffff:(?=\d+\.)/, '');
  if (from !== undefined && isPublicAddress(from)) return 'public';
  const host = hostOf(url);
  if (isIP(host) !== 0) return isPublicAddress(host) ? 'public' : 'named';
  const found = await lookupAll(host, { all: true }).catch(() => []);
  return found.length > 0 && !found.some(isPublic) ? 'named' : 'public';
}

function isPublic({ address }: LookupAddress): boolean {
  return isPublicAddress(address);
}

export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, '$1');
}

/** What kiln.yaml says of downloads. */
export interface DownloadWays {
  /** By the beginning of URLs: what stands for it, tried in turn. All end with a slash. */
  readonly mirrors: Readonly<Record<string, readonly string[]>>;
  readonly proxy: {
    readonly http?: string | undefined;
    readonly https?: string | undefined;
    readonly no_proxy?: readonly string[] | undefined;
  };
}

let ways: () => Promise<DownloadWays> = async () => ({ mirrors: {}, proxy: {} });

/** Of this process, which serves one caller at a time. `read` is called when something is downloaded. */
export function setDownloadWays(read: () => Promise<DownloadWays>): void {
  let found: Promise<DownloadWays> | undefined;
  ways = () => (found ??= awaitedLater(read()));
}

/** Variables of the environment count first, whatever their letters. */
export async function proxyEnvironment(): Promise<Record<string, string>> {
  const { http, https, no_proxy } = (await ways()).proxy;
  const configured = { http_proxy: http, https_proxy: https, no_proxy: no_proxy?.join() };
  const found = Object.entries(configured).map(([name, usual]) => [
    name,
    ownEnvironment[name] || ownEnvironment[name.toUpperCase()] || usual,
  ]);
  return defined(Object.fromEntries(found));
}

/** The mirrors that root names for a URL, by its longest beginning that has some. */
export async function mirrorsFor(url: string): Promise<readonly string[] | undefined> {
  const { mirrors } = await ways();
  const whole = URL.parse(url)?.href ?? '';
  const [longest] = Object.keys(mirrors)
    .filter((prefix) => `${whole}/`.startsWith(prefix))
    .sort((a, b) => b.length - a.length);
  const rest = longest === undefined ? '' : whole.slice(longest.length);
  return longest === undefined ? undefined : mirrors[longest]?.map((place) => `${place}${rest}`);
}
