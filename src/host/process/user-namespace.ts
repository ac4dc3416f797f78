/**
 * User namespaces without a process in them: a descriptor that ID-maps a mount (mount_setattr) or
 * that a program enters (setns, nsenter).
 */
import { addon, checked, tryCall } from '../calls/system-call.ts';

/** One line of uid_map and gid_map: `count` ids from `inside` are `outside` and following in our namespace. */
interface IdMapping {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

/**
 * Makes a user namespace in which user ids are mapped by `users` and group ids by `groups`, and
 * returns a descriptor for it. It lives as long as somebody holds it; the caller closes it.
 *
 * Needs CAP_SETUID and CAP_SETGID, except for a single mapping of the caller's own id.
 * Throws a SyscallError: EINVAL where the kernel refuses a map.
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
 * Making files as somebody else. Where a file system was mounted in a user namespace, new files can
 * only belong to ids of that namespace: for the host's root, creating one fails with EOVERFLOW.
 * Sources: setfsuid(2), setfsgid(2), capset(2), linux/capability.h.
 */

/** _LINUX_CAPABILITY_VERSION_3, and 0 for the calling thread. */
const HEADER = Uint32Array.of(0x20080522, 0);

/**
 * Runs `act`, which must be synchronous, with files and directories it makes belonging to these
 * ids. Only this thread changes, so nothing else of the process is touched. Capabilities stay what
 * they were (the kernel would drop those for files). Needs CAP_SETUID and CAP_SETGID.
 */
export function makingFilesAs<Result>(
  ids: { readonly uid: number; readonly gid: number },
  act: () => Result,
): Result {
  // effective, permitted, inheritable: two words each.
  const capabilities = new Uint32Array(6);
  checked('capget', tryCall('capget', HEADER, capabilities));
  // Both return what was set before, never an error.
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
