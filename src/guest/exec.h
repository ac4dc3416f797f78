// SPDX-License-Identifier: Apache-2.0
// Starts one command in the box, with everything dropped that the request does not name.
#ifndef KILN_EXEC_H
#define KILN_EXEC_H

#include <sys/types.h>

#include "protocol.h"

struct execution {
  uint32_t id;
  pid_t pid; // 0 = free slot
  int tty;   // master descriptor, or -1
};

// Has a process get ready to become the command. Its pid, or -1 and a FAILED answer on `control`. The
// `first` comes before the box has been looked at: it has a gate, and changes nothing of the box.
pid_t exec_begin(struct message *request, int control, int first);
// Waits until it has become the command. 0 and a STARTED answer, or -1 and a FAILED answer.
int exec_finish(int control, struct execution *out);
int exec_winsize(const struct execution *execution, uint16_t rows, uint16_t columns);

#endif
