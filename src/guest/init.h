// SPDX-License-Identifier: Apache-2.0
#ifndef KILN_INIT_H
#define KILN_INIT_H

#include <sys/types.h>

#include "protocol.h"

struct execution {
  uint32_t id;
  pid_t pid; // 0 = free slot
  int tty;
};

// Starts the command of a request: 0 after a STARTED answer on `control`, or -1 after a FAILED answer.
int exec_start(struct message *request, int control, struct execution *out);

// Handles requests that are answered with MSG_DONE; -1 for any other message. `slots` are the init's commands.
int service_obey(struct message *message, int control, struct execution *slots, int count);
int service_notify_fd(void);
void service_notify(int control);

// An own system (systemd), boot.c: a pid namespace below the init's, so that it cannot see or signal the init.
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

// What a command does in place of executing a program, if its request says so. An exit status.
int unpack(void);

// For `kiln doctor`. `calls`, `mounts`: prints NAME ERRNO of each that is refused here. An exit status.
int probe(const char *what);

#endif
