/** What a sandbox's /etc/hosts says. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { type OpenHow, openat2, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS } from '../../kernel/at.ts';

/** An image's own file may be so large, bytes; a larger one is not taken over. */
const LARGEST = 64 * 1024;

/** Debian's address for a host's own name where the host has no lasting address. */
const OWN_ADDRESS = '127.0.1.1';

const HOSTS: OpenHow = {
  flags: constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK | constants.O_NOCTTY,
  resolve: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
};

/** The image's /etc/hosts; empty where it has none, or one that is no small plain file. The tree is hostile. */
function imageHosts(root: string): string {
  let directory: number | undefined;
  let file: number | undefined;
  try {
    directory = openSync(root, constants.O_RDONLY | constants.O_DIRECTORY);
    file = openat2(directory, 'etc/hosts', HOSTS);
    const status = fstatSync(file);
    if (!status.isFile() || status.size > LARGEST) return '';
    const bytes = Buffer.alloc(status.size);
    return bytes.toString('utf8', 0, readSync(file, bytes));
  } catch {
    // Without it the names below are all there is.
    return '';
  } finally {
    if (file !== undefined) closeSync(file);
    if (directory !== undefined) closeSync(directory);
  }
}

/** Address and names of each line of a hosts(5) file. */
function entries(text: string): { readonly address: string; readonly names: readonly string[] }[] {
  return text.split('\n').flatMap((line) => {
    const [address = '', ...names] = (line.split('#')[0] ?? '').trim().toLowerCase().split(/\s+/);
    return address === '' ? [] : [{ address, names }];
  });
}

/**
 * The /etc/hosts of a sandbox: what the image has, and where that lacks them `localhost` and the
 * sandbox's own host name.
 * @param root the image's tree, a path on the host
 * @param address the sandbox's own on its network, where it has one
 */
export function hostsFile(root: string, hostname: string, address = OWN_ADDRESS): string {
  const image = imageHosts(root);
  const known = entries(image);
  const has = (name: string, prefix = '') =>
    known.some(({ address, names }) => address.startsWith(prefix) && names.includes(name));
  const lines: string[] = [];
  if (!has('localhost', '127.')) lines.push('127.0.0.1\tlocalhost');
  if (!has('localhost', '::1')) lines.push('::1\tlocalhost ip6-localhost ip6-loopback');
  // A host name that is none of hosts(5) is the caller's own business.
  if (/^[\w.-]+$/.test(hostname) && !has(hostname.toLowerCase()) && hostname !== 'localhost') {
    const [short = ''] = hostname.split('.');
    lines.push(`${address}\t${short === hostname ? hostname : `${hostname} ${short}`}`);
  }
  const own = lines.map((line) => `${line}\n`).join('');
  return image === '' || image.endsWith('\n') ? image + own : `${image}\n${own}`;
}
