/**
 * Using files as somebody else, for the length of a synchronous call and in this thread alone.
 * Sources: setfsuid(2), setfsgid(2), setgroups(2), capset(2), linux/capability.h.
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
 * Runs `act`, which must be synchronous, with this user's rights to files and no capability: what the user may
 * not open, make or remove fails as it would for the user. No process has the user's ids, so there is none
 * that the user could trace or signal, and whose descriptors they could take.
 */
export function actingAs<Result>({ uid, gid, groups }: UserIds, act: () => Result): Result {
  const capabilities = new Uint32Array(6);
  checked('capget', tryCall('capget', HEADER, capabilities));
  const count = checked('getgroups', tryCall('getgroups', 0, null));
  const own = new Uint32Array(Math.max(1, count));
  checked('getgroups', tryCall('getgroups', count, own));
  try {
    // The kernel's call, unlike the C library's function, changes this thread only.
    checked('setgroups', tryCall('setgroups', groups.length, Uint32Array.from([...groups, 0])));
    tryCall('setfsgid', gid);
    tryCall('setfsuid', uid);
    // Both give what was set before, and no error: what is in force is asked for.
    if (tryCall('setfsgid', -1) !== gid || tryCall('setfsuid', -1) !== uid) {
      throw new Error(`cannot take the ids ${uid}:${gid}`);
    }
    // Effective ones only, of two words: those permitted bring them back.
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
