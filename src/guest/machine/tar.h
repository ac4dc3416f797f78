// SPDX-License-Identifier: Apache-2.0
// A tar archive with pax headers (pax(1)) on descriptor 1, written by a process of its own, which ends with an errno
// where it cannot go on.
#ifndef KILN_TAR_H
#define KILN_TAR_H

#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

// Of the entry that comes next.
extern char tar_path[16 << 10];

_Noreturn void tar_fail(int error);

void tar_append(const char *name); // to the path

// From here on entries have owners, whose ids are counted from `base`, and times with nanoseconds.
void tar_own(uint32_t base);
// The next header has this as well.
void tar_record(const char *name, const void *value, size_t length);
void tar_header(char type, const struct stat *st, uint64_t size, const char *target);
// The folder in which all is, without a pax header.
void tar_last(const char *name, const struct stat *st);
void tar_content(int fd, uint64_t size);
// Of a file with several names the one that came first, which is not this one; or NULL.
const char *tar_first_name(const struct stat *st);
void tar_end(void);

#endif
