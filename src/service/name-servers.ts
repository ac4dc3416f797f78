import { closeSync, constants, openSync, readSync } from 'node:fs';
import { openat2, RESOLVE_IN_ROOT } from '../kernel/at.ts';
import { hasErrno } from '../kernel/libc.ts';
import { replaceFileIn } from './replace-file.ts';

/** What tells a resolv.conf of kiln's from one that somebody wrote. */
const MARK = '# Made by kiln from what DHCP said.\n';

/** Makes the resolv.conf of an /etc, unless somebody else has made one. The tree is hostile. */
export function writeNameServers(etc: string, servers: readonly string[]): void {
  const directory = openSync(etc, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    if (servers.length === 0 || !isOurs(directory)) return;
    const lines = servers.slice(0, 3).map((server) => `nameserver ${server}\n`);
    replaceFileIn(directory, 'resolv.conf', MARK + lines.join(''));
  } finally {
    closeSync(directory);
  }
}

/** There is none, an empty one, or the last one made here. */
function isOurs(directory: number): boolean {
  let fd: number;
  try {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    fd = openat2(directory, 'resolv.conf', { flags, resolve: RESOLVE_IN_ROOT });
  } catch (error) {
    return hasErrno(error, 'ENOENT');
  }
  try {
    const begin = Buffer.alloc(MARK.length);
    const length = readSync(fd, begin);
    return length === 0 || begin.toString('utf8', 0, length) === MARK;
  } catch {
    return false;
  } finally {
    closeSync(fd);
  }
}
