import { closeSync } from 'node:fs';
import { tryCallInThread } from './system-call.ts';

/** F_DUPFD_CLOEXEC of linux/fcntl.h: the lowest free descriptor from a number on. */
const F_DUPFD_CLOEXEC = 1030;

/** The last descriptor of a table that is large enough for nearly everybody. */
const LAST = 1023;

/**
 * Makes the kernel's table of this process's descriptors as large as it may soon have to be. Whoever opens
 * the 65th or the 257th in a process of several threads waits until all processors have taken notice, 10 to
 * 20 ms (expand_fdtable() in the kernel's fs/file.c): here it is a thread that has nothing else to do.
 */
export function widenDescriptorTable(): void {
  // Without so many allowed (RLIMIT_NOFILE) the call fails, and opening the descriptor waits later.
  tryCallInThread('fcntl', 0, F_DUPFD_CLOEXEC, LAST).then(
    (fd) => {
      if (fd >= 0) closeSync(fd);
    },
    () => undefined,
  );
}
