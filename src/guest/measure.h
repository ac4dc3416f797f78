// SPDX-License-Identifier: Apache-2.0
// Looks at the sandbox from inside. What kiln reports as in force is what is found here.
#ifndef KILN_MEASURE_H
#define KILN_MEASURE_H

#include <stddef.h>
#include <sys/types.h>

#include "protocol.h"

// Appends lines NAME=VALUE about the sandbox to `facts`. 0, or -1 with the first part of `setup` that is not in
// force in `failure`. No command runs yet.
int measure_sandbox(const struct message *setup, char *facts, size_t size, struct failure *failure);

// Before the first command: finds what decides the walls of every command, whatever its request says.
void measure_surroundings(const struct message *setup);
// 1 in the host's network namespace, whose abstract sockets are within reach.
int measure_host_network(void);
// 1 if commands can write to a folder of the host.
int measure_host_files(void);

// For things made later, by boot.h: 1 if the path is masked.
int measure_masked(const char *path);
int measure_readonly(const char *path);
int measure_hidden_cgroups(void);

#endif
