/**
 * User namespaces without a process in them, which ID-map a mount (mount_setattr) or which a program enters
 * (setns, nsenter); files with other ids. Sources: setfsuid(2), setfsgid(2), setgroups(2), capset(2),
 * linux/capability.h.
 */
import { addon, checked, tryCall } from '../calls/system-call.ts';

interface IdMapping {
  readonly inside: number;
  readonly outside: number;
  readonly count: number;
}

/**
 * Returns the descriptor of a new user namespace, which lives while one is open; the caller closes it.
 * Needs CAP_SETUID and CAP_SETGID, except for a single mapping of the caller's own id.
 * @throws SyscallError EINVAL where the kernel refuses a map
 */
export function createUserNamespace(
  users: readonly IdMapping[],
  groups: readonly IdMapping[] = users,
): number {
  const denySetgroups = process.geteuid?.() !== 0;
  const result = addon().userNamespace(mapText(users), mapText(groups), denySetgroups);
  return checked('make a user namespace', result);
}

function mapText(mappings: readonly IdMapping[]): string {
  return mappings.map((m) => `${m.inside} ${m.outside} ${m.count}\n`).join('');
}

/** _LINUX_CAPABILITY_VERSION_3, and 0 for the calling thread. */
const HEADER = Uint32Array.of(0x20080522, 0);

export interface UserIds {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/**
 * Runs the synchronous `act` with this user's rights to files and without capabilities, in this thread only: it
 * fails where the user would fail. No process gets the user's ids, so the user can trace or signal none.
 */
export function actingAs<Result>({ uid, gid, groups }: UserIds, act: () => Result): Result {
  const capabilities = new Uint32Array(6);
  checked('capget', tryCall('capget', HEADER, capabilities));
  const count = checked('getgroups', tryCall('getgroups', 0, null));
  const own = new Uint32Array(Math.max(1, count));
  checked('getgroups', tryCall('getgroups', count, own));
  try {
    checked('setgroups', tryCall('setgroups', groups.length, Uint32Array.from([...groups, 0])));
    tryCall('setfsgid', gid);
    tryCall('setfsuid', uid);
    // Both calls return the old value and no error, so the new value is read back.
    if (tryCall('setfsgid', -1) !== gid || tryCall('setfsuid', -1) !== uid) {
      throw new Error(`cannot take the ids ${uid}:${gid}`);
    }
    // Drops only the effective capabilities (two words); the permitted ones bring them back.
    const [, permitted = 0, inheritable = 0, , permittedHigh = 0, inheritableHigh = 0] =
      capabilities;
    const none = Uint32Array.of(0, permitted, inheritable, 0, permittedHigh, inheritableHigh);
    checked('capset', tryCall('capset', HEADER, none));
    return act();
  } finally {
    checked('capset', tryCall('capset', HEADER, capabilities));
    tryCall('setfsuid', 0);
    tryCall('setfsgid', 0);
    checked('capset', tryCall('capset', HEADER, capabilities));
    checked('setgroups', tryCall('setgroups', count, own));
  }
}
