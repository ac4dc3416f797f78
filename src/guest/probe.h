// SPDX-License-Identifier: Apache-2.0
// What the program does outside of a sandbox, for `kiln doctor`.
#ifndef KILN_PROBE_H
#define KILN_PROBE_H

// `true`: does nothing, successfully. `calls`: prints a line for each system call of the init that is refused
// here. `mounts`: prints a line for each file system of a sandbox that cannot be mounted in namespaces of its
// own. Lines are NAME ERRNO. Returns an exit status.
int probe(const char *what);

#endif
