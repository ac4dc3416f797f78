// SPDX-License-Identifier: Apache-2.0
// Starts one command in the sandbox, with everything dropped that the request does not name.
#ifndef KILN_EXEC_H
#define KILN_EXEC_H

#include <sys/types.h>

#include "protocol.h"

struct execution {
  uint32_t id;
  pid_t pid; // 0 = free slot
  int tty;   // master descriptor, or -1
};

// Starts the command of a request. Returns 0 after a STARTED answer on `control`, or -1 after a FAILED answer.
int exec_start(struct message *request, int control, struct execution *out);
int exec_winsize(const struct execution *execution, uint16_t rows, uint16_t columns);

#endif
