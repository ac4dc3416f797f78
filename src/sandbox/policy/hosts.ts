import { constants, fstatSync, openSync, readSync } from 'node:fs';
import { closing } from '../../host/calls/descriptor.ts';
import { attempt, readText } from '../../host/calls/libc.ts';
import { type OpenHow, openat2, RESOLVE_BELOW } from '../../host/files/at.ts';

/** A name, and an address that it stands for. */
export interface Neighbour {
  readonly name: string;
  readonly address: string;
}

/** The host's own file, and the servers behind systemd-resolved's stub (systemd-resolved.service(8)). */
const HOST_FILES = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'];

/** Resolvers read no more servers than this (resolv.conf(5), MAXNS). */
const MOST = 3;

/** The most bytes of a hosts(5) or resolv.conf(5) file; a larger file is ignored. */
const LARGEST = 64 * 1024;

function read(path: string): string | undefined {
  const text = readText(path);
  return text !== undefined && text.length <= LARGEST ? text : undefined;
}

/** The host's /etc/resolv.conf, for a sandbox in the host's network, where a stub on loopback answers too. */
export function hostResolver(): string | undefined {
  return read('/etc/resolv.conf');
}

/** 127.0.0.53 and the like answer only in the host's own network. */
function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1' || address === '0.0.0.0';
}

function hostNameServers(): string[] {
  for (const path of HOST_FILES) {
    const text = read(path) ?? '';
    const servers = [...text.matchAll(/^nameserver[ \t]+([\da-fA-F.:]+)[ \t]*$/gm)];
    // Servers with a zone (fe80::1%eth0) are on a link of the host's, so they are left out.
    const reachable = servers.map(([, server = '']) => server).filter((it) => !isLoopback(it));
    if (reachable.length > 0) return reachable;
  }
  return [];
}

export function networkResolver(told: readonly string[]): string | undefined {
  const servers = told.length > 0 ? told : hostNameServers();
  if (servers.length === 0) return undefined;
  return servers
    .slice(0, MOST)
    .map((server) => `nameserver ${server}\n`)
    .join('');
}

/** Debian's address for a host's own name on a host without a permanent address. */
const OWN_ADDRESS = '127.0.1.1';

const HOSTS: OpenHow = {
  flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY,
  resolve: RESOLVE_BELOW,
};

/** The image's /etc/hosts; empty if it is missing or is not a small plain file. The tree is hostile. */
function imageHosts(root: string): string {
  const read = () => {
    using directory = closing(openSync(root, constants.O_RDONLY | constants.O_DIRECTORY));
    using file = closing(openat2(directory.fd, 'etc/hosts', HOSTS));
    const status = fstatSync(file.fd);
    if (!status.isFile() || status.size > LARGEST) return '';
    const bytes = Buffer.alloc(status.size);
    return bytes.toString('utf8', 0, readSync(file.fd, bytes));
  };
  return attempt(read) ?? '';
}

function entries(text: string): { readonly address: string; readonly names: readonly string[] }[] {
  return text.split('\n').flatMap((line) => {
    const [address = '', ...names] = (line.split('#')[0] ?? '').trim().toLowerCase().split(/\s+/);
    return address === '' ? [] : [{ address, names }];
  });
}

/** What is known of a sandbox's networks. */
export interface NetworkAnswers {
  /** The sandbox's own. */
  readonly address?: string | undefined;
  readonly nameServers?: readonly string[];
  readonly knownAs?: string | undefined;
  readonly neighbours?: readonly Neighbour[];
}

/**
 * Those of the caller's other sandboxes, the image's, plus `localhost` and the sandbox's own host name if they are missing.
 * @param root the image's tree, a path on the host
 */
export function hostsFile(
  root: string,
  hostname: string,
  { address = OWN_ADDRESS, knownAs, neighbours = [] }: NetworkAnswers = {},
): string {
  const image = imageHosts(root);
  const known = entries(image);
  const has = (name: string, prefix = '') =>
    known.some(({ address, names }) => address.startsWith(prefix) && names.includes(name));
  const lines: string[] = [];
  if (!has('localhost', '127.')) lines.push('127.0.0.1\tlocalhost');
  if (!has('localhost', '::1')) lines.push('::1\tlocalhost ip6-localhost ip6-loopback');
  if (/^[\w.-]+$/.test(hostname) && !has(hostname.toLowerCase()) && hostname !== 'localhost') {
    const [short = ''] = hostname.split('.');
    const names = [...new Set([hostname, short, knownAs ?? hostname])];
    lines.push(`${address}\t${names.join(' ')}`);
  }
  const own = lines.map((line) => `${line}\n`).join('');
  // First, because resolvers take the first line that has a name.
  const others = neighbours.map((each) => `${each.address}\t${each.name}\n`).join('');
  const begin = image === '' || image.endsWith('\n') ? image : `${image}\n`;
  return others + begin + own;
}
