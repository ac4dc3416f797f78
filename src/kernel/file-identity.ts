/**
 * Making files as somebody else. Where a file system was mounted in a user namespace, new files can
 * only belong to ids of that namespace: for the host's root, creating one fails with EOVERFLOW.
 * Sources: setfsuid(2), setfsgid(2), capset(2), linux/capability.h.
 */
import { checked, tryCall } from './system-call.ts';

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
