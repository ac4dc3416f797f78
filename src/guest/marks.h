// SPDX-License-Identifier: Apache-2.0
// When what was done, for KILN_TRACE (src/host/trace/trace.ts). Taken always: a mark costs 50 ns.
#ifndef KILN_MARKS_H
#define KILN_MARKS_H

#include <stddef.h>

// Forgets all marks and begins anew: now.
void marks_begin(void);
// The phase `name`, a literal, has just ended. More than sixteen marks are dropped.
void mark(const char *name);
// Appends lines mark=NAME MICROSECONDS, of the real-time clock, to `facts`.
void marks_append(char *facts, size_t size);

#endif
