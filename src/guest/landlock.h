// SPDX-License-Identifier: Apache-2.0
// A second wall over files and TCP (landlock(7)): what does not lie below the box's own root cannot
// be opened, not even through a directory that leaked into the box.
#ifndef KILN_LANDLOCK_H
#define KILN_LANDLOCK_H

#include <stdint.h>

enum { // bits of EXEC_LANDLOCK
  LANDLOCK_FILES = 1,
  LANDLOCK_NO_TCP = 2,          // neither bind nor connect, loopback included
  LANDLOCK_ABSTRACT_SOCKETS = 4, // no abstract unix socket of somebody else
  LANDLOCK_OPEN_SOCKETS = 8,     // no wall: in the host's network, its abstract sockets may be open
};

// Once, while mounts can still be made: what lies outside, to measure against.
int landlock_prepare(void);
// Builds the rules: -1 (errno) when the kernel cannot do all of `flags`. Gives a descriptor.
int landlock_rules(uint32_t flags);
// Puts them in force for this process, which has set no_new_privs, and tries each of `flags`: `walls`
// are those behind which something is not possible now that was before. The ABI, or -1 (errno) when
// one is not there.
int landlock_enter(int rules, uint32_t flags, uint32_t *walls);

#endif
