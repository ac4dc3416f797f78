/**
 * User namespaces without a process in them. The descriptor of one ID-maps a mount (mount_setattr), and a
 * program can enter it (setns, nsenter).
 */
import { addon, checked, tryCall } from '../calls/system-call.ts';

/** One line of uid_map and gid_map: `count` ids from `inside` are `outside` and following in our namespace. */
interface IdMapping {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

/**
 * Makes a user namespace that maps user ids by `users` and group ids by `groups`, and returns its descriptor.
 * The namespace lives while a descriptor is open; the caller closes it.
 *
 * Needs CAP_SETUID and CAP_SETGID, except for a single mapping of the caller's own id. Throws a SyscallError:
 * EINVAL where the kernel refuses a map.
 */
export function createUserNamespace(
  users: readonly IdMapping[],
  groups: readonly IdMapping[] = users,
): number {
  // Without CAP_SETGID the kernel takes a group map only after setgroups(2) is denied.
  const denySetgroups = process.geteuid?.() !== 0;
  const result = addon().userNamespace(mapText(users), mapText(groups), denySetgroups);
  return checked('make a user namespace', result);
}

function mapText(mappings: readonly IdMapping[]): string {
  return mappings.map((m) => `${m.inside} ${m.outside} ${m.count}\n`).join('');
}

/*
 * Makes files as somebody else. On a file system that was mounted in a user namespace, new files can belong
 * only to ids of that namespace: for the host's root, creating one fails with EOVERFLOW. Sources: setfsuid(2),
 * setfsgid(2), capset(2), linux/capability.h.
 */

/** _LINUX_CAPABILITY_VERSION_3, and 0 for the calling thread. */
const HEADER = Uint32Array.of(0x20080522, 0);

/**
 * Runs the synchronous `act`; files and directories that it makes belong to these ids. Only this thread
 * changes. Capabilities stay as they are (the kernel would drop those for files). Needs CAP_SETUID and
 * CAP_SETGID.
 */
export function makingFilesAs<Result>(
  ids: { readonly uid: number; readonly gid: number },
  act: () => Result,
): Result {
  // effective, permitted, inheritable: two words each.
  const capabilities = new Uint32Array(6);
  checked('capget', tryCall('capget', HEADER, capabilities));
  // Both calls return the old value, never an error.
  const gid = tryCall('setfsgid', ids.gid);
  const uid = tryCall('setfsuid', ids.uid);
  try {
    checked('capset', tryCall('capset', HEADER, capabilities));
    return act();
  } finally {
    tryCall('setfsuid', uid);
    tryCall('setfsgid', gid);
    checked('capset', tryCall('capset', HEADER, capabilities));
  }
}
