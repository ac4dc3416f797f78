// SPDX-License-Identifier: Apache-2.0
// An own system (systemd): a pid namespace below the init's, so that it cannot see or signal the init.
#ifndef KILN_BOOT_H
#define KILN_BOOT_H

#include <sys/types.h>

#include "protocol.h"

#define BOOT_RULES_MAX 64u

struct boot {
  unsigned count; // 0: an ordinary command
  struct wire_boot rules[BOOT_RULES_MAX];
};

pid_t boot_fork(const struct boot *boot);
// Keeps a system console's other end open: it is opened now and then, and its reader must see no end.
void boot_hold(const struct boot *boot, int slave);
// In the child: /proc, a /sys with only its cgroups, console. `terminal`: master, or -1. 0, or FAIL_….
uint32_t boot_prepare(const struct boot *boot, int terminal, char *facts, size_t size);

#endif
