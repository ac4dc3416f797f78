/** What a sandbox's /etc/resolv.conf says. */
import { readFileSync } from 'node:fs';

/** The host's own, and what systemd-resolved's stub in it stands for (systemd-resolved.service(8)). */
const HOST_FILES = ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf'];

/** More than these no resolver reads (resolv.conf(5), MAXNS). */
const MOST = 3;

/** A larger one is nothing that a resolver reads, bytes. */
const LARGEST = 64 * 1024;

function read(path: string): string | undefined {
  try {
    const text = readFileSync(path, 'utf8');
    return text.length <= LARGEST ? text : undefined;
  } catch {
    return undefined;
  }
}

/** The host's /etc/resolv.conf, for a sandbox in the host's network: a stub on loopback answers there, too. */
export function hostResolver(): string | undefined {
  return read('/etc/resolv.conf');
}

/** 127.0.0.53 and the like: nobody answers there but in the host's own network. */
function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1' || address === '0.0.0.0';
}

/** The host's name servers that can be reached from another network. */
function hostNameServers(files: readonly string[]): string[] {
  for (const path of files) {
    const text = read(path) ?? '';
    const servers = [...text.matchAll(/^nameserver[ \t]+([\da-fA-F.:]+)[ \t]*$/gm)];
    // Without a zone (fe80::1%eth0), which is one of the host's links.
    const reachable = servers.map(([, server = '']) => server).filter((it) => !isLoopback(it));
    if (reachable.length > 0) return reachable;
  }
  return [];
}

/**
 * A resolv.conf for a sandbox on a network of its own: with the name servers that the network told,
 * or else the host's. Undefined where there are none.
 * @param files of the host, the first that has a server counts
 */
export function networkResolver(
  told: readonly string[],
  files: readonly string[] = HOST_FILES,
): string | undefined {
  const servers = told.length > 0 ? told : hostNameServers(files);
  if (servers.length === 0) return undefined;
  return servers
    .slice(0, MOST)
    .map((server) => `nameserver ${server}\n`)
    .join('');
}
