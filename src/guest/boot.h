// SPDX-License-Identifier: Apache-2.0
// A command that is pid 1 of a system of its own: systemd. It gets a pid namespace below the init's,
// so that it sees neither the init nor anything it could signal, the cgroup that the host has given
// to the box as its own tree, and the terminal as its console. Commands that are started while it
// lives are started in its pid namespace.
#ifndef KILN_BOOT_H
#define KILN_BOOT_H

#include <sys/types.h>

#include "protocol.h"

#define BOOT_PATHS_MAX 64u

struct boot {
  unsigned count; // 0: an ordinary command
  struct {
    const char *path;
    uint32_t readonly; // else it is masked
  } paths[BOOT_PATHS_MAX];
};

// One EXEC_BOOT: a path of /proc that is masked or read-only. 0 or -1.
int boot_field(const struct field *field, struct boot *boot);
// fork(2), into the pid namespace where the command belongs.
pid_t boot_fork(const struct boot *boot);
// Closes a terminal's other end here, unless it is a system's console: that one is opened only now
// and then, and whoever reads it must not be told meanwhile that this was all.
void boot_hold(const struct boot *boot, int slave);
// In the child: its own /proc, /sys with nothing but its cgroups, its console. `terminal` is the
// master of its terminal, or -1. NULL, or what failed; appends what it found to `facts`.
const char *boot_prepare(const struct boot *boot, int terminal, char *facts, size_t size);

#endif
