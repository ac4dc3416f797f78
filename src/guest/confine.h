// SPDX-License-Identifier: Apache-2.0
// Takes from a process that is about to become a command what the request does not name.
#ifndef KILN_CONFINE_H
#define KILN_CONFINE_H

#include <linux/filter.h>
#include <stdint.h>

#include "users.h"

struct confinement {
  uint64_t capabilities;
  struct sock_fprog filter;   // seccomp; no filter when its length is 0
  struct sock_fprog verdicts; // what to answer where the filter asks the init
  uint32_t landlock;          // WALL_…
};

// What was measured of Landlock.
struct landlock {
  int abi;        // 0 where none was wanted
  uint32_t walls; // WALL_…, tried
};

// Drops all rights; the filter of system calls comes last and elsewhere. 0, or FAIL_… (errno).
uint32_t confine(const struct confinement *wanted, const struct user *user, const char *cwd,
                 struct landlock *found);

#endif
