// SPDX-License-Identifier: Apache-2.0
// What is found of a sandbox, as kiln reads it: lines NAME=VALUE.
#ifndef KILN_FACTS_H
#define KILN_FACTS_H

#include <stddef.h>

// Appends to `facts`, which has room for `size` bytes.
__attribute__((format(printf, 3, 4))) void facts_add(char *facts, size_t size, const char *format,
                                                     ...);

#endif
