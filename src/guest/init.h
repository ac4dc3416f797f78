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

// What a command does in place of executing a program, if its request says so. An exit status.
int unpack(void);

// For `kiln doctor`. `calls`, `mounts`: prints NAME ERRNO of each that is refused here. An exit status.
int probe(const char *what);

#endif
