// SPDX-License-Identifier: Apache-2.0
// System call filters whose refusals are counted: the kernel asks the init about each refused call
// (seccomp_unotify(2)), and the init says no, as the profile has it.
#ifndef KILN_FILTER_H
#define KILN_FILTER_H

#include <linux/filter.h>
#include <stdint.h>

#include "wire.h"

#define REFUSED_MAX 32 // kinds of refusals that are told apart

// In the command's process: loads a filter. Returns the listener if `asking`, otherwise 0; -1 (errno).
int filter_load(struct sock_fprog *enforced, int asking);
// In the init: takes the listener `number` of process `pid` and answers it from now on by `verdicts`, for
// command `id`. 0, or -1 (errno).
int filter_take(int pid, int number, const struct sock_fprog *verdicts, uint32_t id);
// Readable while a question waits; -1 before the first filter_take.
int filter_fd(void);
// Answers the waiting questions.
void filter_answer(void);
// The calls refused to command `id` so far; returns how many there are.
uint32_t filter_refused(uint32_t id, const struct wire_refused **out);

#endif
