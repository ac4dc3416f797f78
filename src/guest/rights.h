// SPDX-License-Identifier: Apache-2.0
// Looks at a process that has dropped everything and is about to become a command.
#ifndef KILN_RIGHTS_H
#define KILN_RIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "confine.h"
#include "wire.h"

// Files of /proc, opened before seccomp closes the way to them. Close-on-exec.
struct rights_files {
  int status, open;
};
struct rights_files rights_open(void);

// Appends the limits in force to `facts`: 0, or -1 when one differs from the request.
int rights_limits(const struct wire_rlimit *limits, unsigned count, char *facts, size_t size);
// No descriptor: a call on it has no effect, whatever a filter says.
#define RIGHTS_NO_FILE (-1)
// Whether a system call, by its number and first argument, is only a measurement.
int rights_is_probe(int number, uint64_t first);
// Appends findings to `facts`, most as lines of /proc/self/status: 0, or FAIL_… for the first of `wanted` that
// is not in force.
uint32_t rights_measure(struct rights_files files, const struct confinement *wanted,
                        const struct user *user, const struct landlock *landlock, char *facts,
                        size_t size);

#endif
