// SPDX-License-Identifier: Apache-2.0
// A program that tries to get out of a sandbox: each verb is one attempt, harmless where it succeeds.
#ifndef PROBE_H
#define PROBE_H

#include <stddef.h>

// What came of an attempt. THROUGH: it got what it wanted. STOPPED: it did not, errno says how.
// ABSENT: this machine does not have what would be attacked.
enum outcome { THROUGH, STOPPED, ABSENT };

struct verb {
  const char *name;
  enum outcome (*try)(void);
};

extern const struct verb kernel_verbs[], process_verbs[], file_verbs[], network_verbs[],
    limit_verbs[];

// Of a system call's result: negative is STOPPED.
enum outcome by_result(long result);
// Reads a whole small file: THROUGH when there is anything in it.
enum outcome read_something(const char *path);
enum outcome write_something(const char *path, const char *text);

#endif
