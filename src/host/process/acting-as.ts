/**
 * Uses files with another user's rights, during one synchronous call and in this thread only. Sources:
 * setfsuid(2), setfsgid(2), setgroups(2), capset(2), linux/capability.h.
 */
import { checked, tryCall } from '../calls/system-call.ts';

/** _LINUX_CAPABILITY_VERSION_3, and 0 for the calling thread. */
const HEADER = Uint32Array.of(0x20080522, 0);

/** A user of this host, with all groups that a file may be open to. */
export interface UserIds {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

/**
 * Runs the synchronous `act` with this user's rights to files and without capabilities, so it fails where the
 * user would fail. No process gets the user's ids, so the user can trace or signal none and take no
 * descriptors.
 */
export function actingAs<Result>({ uid, gid, groups }: UserIds, act: () => Result): Result {
  const capabilities = new Uint32Array(6);
  checked('capget', tryCall('capget', HEADER, capabilities));
  const count = checked('getgroups', tryCall('getgroups', 0, null));
  const own = new Uint32Array(Math.max(1, count));
  checked('getgroups', tryCall('getgroups', count, own));
  try {
    // The system call changes this thread only, unlike the C library's function.
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
