// SPDX-License-Identifier: Apache-2.0
// A second wall over files and TCP (landlock(7)): what does not lie below the sandbox's own root cannot
// be opened, not even through a directory that leaked into the sandbox.
#ifndef KILN_LANDLOCK_H
#define KILN_LANDLOCK_H

#include <stdint.h>

#include "wire.h"

// Once, while mounts can still be made: what lies outside, to measure against.
int landlock_prepare(void);
// Builds the rules: -1 (errno) when the kernel cannot do all of `flags`, WALL_…. Gives a descriptor.
int landlock_rules(uint32_t flags);
// Puts them in force for this process, which has set no_new_privs, and tries each of `flags`: `walls`
// are those behind which something is not possible now that was before. The ABI, or -1 (errno) when
// one is not there.
int landlock_enter(int rules, uint32_t flags, uint32_t *walls);

#endif
