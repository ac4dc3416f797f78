// SPDX-License-Identifier: Apache-2.0
// Looks at the sandbox from inside. What kiln reports as in force is what is found here.
#ifndef KILN_MEASURE_H
#define KILN_MEASURE_H

#include <stddef.h>
#include <sys/types.h>

#include "protocol.h"

// 0, or -1 with the first part of `setup` that is not in force in `failure`. No command runs yet.
int measure_sandbox(const struct message *setup, char *facts, size_t size, struct failure *failure);

// 1 if all mounts are what they may be, after there was another root.
int measure_mounts_again(void);

// Before the first command: finds what decides the walls of every command, whatever its request says.
void measure_surroundings(const struct message *setup);
// 1 in the host's network namespace, whose abstract sockets are within reach.
int measure_host_network(void);
int measure_host_files(void);

int measure_masked(const char *path);
int measure_readonly(const char *path);
int measure_hidden_cgroups(void);

// Appends lines NAME=VALUE to `facts`, which has room for `size` bytes; what does not fit is cut.
__attribute__((format(printf, 3, 4))) void facts_add(char *facts, size_t size, const char *format,
                                                     ...);

// Marks are for KILN_TRACE (src/host/trace/trace.ts). They are taken always: one costs 50 ns.
void marks_begin(void);
void mark(const char *name);
void marks_append(char *facts, size_t size);

#endif
