// SPDX-License-Identifier: Apache-2.0
// A second wall over files and TCP (landlock(7)): what does not lie below the sandbox's own root cannot
// be opened, not even through a directory that leaked into the sandbox.
#ifndef KILN_LANDLOCK_H
#define KILN_LANDLOCK_H

#include <stdint.h>

#include "wire.h"

// Called once while mounts can still be made: prepares a place outside to measure with.
int landlock_prepare(void);
// Builds the rules. Returns a descriptor, or -1 (errno) when the kernel does not support all of `flags`,
// WALL_….
int landlock_rules(uint32_t flags);
// Puts the rules in force for this process, which has set no_new_privs, and tests each of `flags`: `walls` gets
// those that now prevent what was possible before. Returns the ABI, or -1 (errno) when a wall is not there.
int landlock_enter(int rules, uint32_t flags, uint32_t *walls);

#endif
