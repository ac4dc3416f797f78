// SPDX-License-Identifier: Apache-2.0
// What a supervisor of long-running services needs of the init beyond starting commands.
#ifndef KILN_SERVICE_H
#define KILN_SERVICE_H

#include "exec.h"
#include "protocol.h"

// Handles requests that are answered with MSG_DONE; -1 for any other message. `slots` are the commands that the
// init knows.
int service_obey(struct message *message, int control, struct execution *slots, int count);
// The notify socket for poll; -1 while there is none.
int service_notify_fd(void);
// Passes on one waiting datagram.
void service_notify(int control);

#endif
