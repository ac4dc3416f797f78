import { hash } from 'node:crypto';
import { constants, openSync, readSync } from 'node:fs';
import { hostname } from 'node:os';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno, readText } from '../../host/calls/libc.ts';
import { openat2, RESOLVE_IN_ROOT } from '../../host/files/at.ts';
import { type SandboxNetwork, virtualMac } from '../../sandbox/policy/network.ts';
import { replaceFileIn } from '../definition/definition-file.ts';
import type { StoredService } from '../lifecycle/store.ts';

const MARK = '# Made by kiln from what DHCP said.\n';

/** Unless a person wrote one. The tree is hostile. */
export function writeNameServers(etc: string, servers: readonly string[]): void {
  using directory = closing(openSync(etc, constants.O_RDONLY | constants.O_DIRECTORY));
  if (servers.length === 0 || !isOurs(directory.fd)) return;
  const lines = servers.slice(0, 3).map((server) => `nameserver ${server}\n`);
  replaceFileIn(directory.fd, 'resolv.conf', MARK + lines.join(''));
}

function isOurs(directory: number): boolean {
  try {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    using file = closing(openat2(directory, 'resolv.conf', { flags, resolve: RESOLVE_IN_ROOT }));
    const begin = Buffer.alloc(MARK.length);
    const length = readSync(file.fd, begin);
    return length === 0 || begin.toString('utf8', 0, length) === MARK;
  } catch (error) {
    return hasErrno(error, 'ENOENT');
  }
}

/** Its hardware addresses are the same at each start, because networks identify a service by them. */
export function networksOf({ definition, files }: StoredService): SandboxNetwork {
  const { network } = definition;
  if (network === 'private') return network;
  // Different on each host.
  const identity = [readText('/etc/machine-id') ?? '', hostname(), files.directory];
  return network.map((each, nth) => {
    const text = [...identity, ...(nth === 0 ? [] : [nth])].join('\n');
    const mac = virtualMac(hash('sha256', text, 'buffer').subarray(0, 3));
    return { ...each, mac: each.mac ?? mac };
  });
}
