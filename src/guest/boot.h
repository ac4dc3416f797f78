// SPDX-License-Identifier: Apache-2.0
// A command that is pid 1 of a system of its own: systemd. It gets a pid namespace below the init's,
// so that it sees neither the init nor anything it could signal, the cgroup that the host has given
// to the sandbox as its own tree, and the terminal as its console. Commands that are started while it
// lives are started in its pid namespace.
#ifndef KILN_BOOT_H
#define KILN_BOOT_H

#include <sys/types.h>

#include "protocol.h"

#define BOOT_RULES_MAX 64u

struct boot {
  unsigned count; // 0: an ordinary command
  struct wire_boot rules[BOOT_RULES_MAX];
};

// fork(2) into the pid namespace of the command.
pid_t boot_fork(const struct boot *boot);
// Closes the other end of a terminal here, unless it is a system's console: a console is opened only now and
// then, and its reader must not see an end of file meanwhile.
void boot_hold(const struct boot *boot, int slave);
// In the child: mounts its own /proc and a /sys with nothing but its cgroups, and makes its console. `terminal`
// is the master of its terminal, or -1. 0, or FAIL_… (errno); appends what it found to `facts`.
uint32_t boot_prepare(const struct boot *boot, int terminal, char *facts, size_t size);

#endif
