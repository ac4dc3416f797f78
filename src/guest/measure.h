// SPDX-License-Identifier: Apache-2.0
// Looks at the sandbox from inside. What kiln reports as in force is what is found here.
#ifndef KILN_MEASURE_H
#define KILN_MEASURE_H

#include <stddef.h>
#include <sys/types.h>

#include "protocol.h"

// Appends lines NAME=VALUE about the sandbox to `facts`. 0, or -1 with the first of what `setup` asked for
// that does not hold in `failure`. No command runs yet.
int measure_sandbox(const struct message *setup, char *facts, size_t size, struct failure *failure);

// Before the first command: what decides on walls of every command, whatever its request says.
void measure_surroundings(const struct message *setup);
// 1 in the host's network namespace, whose abstract sockets are in reach.
int measure_host_network(void);
// 1 where commands can write to a folder of the host's.
int measure_host_files(void);

// Of what was made later, for boot.h: 1 when it holds.
int measure_masked(const char *path);
int measure_readonly(const char *path);
int measure_hidden_cgroups(void);

#endif
