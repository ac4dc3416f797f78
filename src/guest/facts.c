// SPDX-License-Identifier: Apache-2.0
#include "facts.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void facts_add(char *facts, size_t size, const char *format, ...) {
  size_t used = strlen(facts);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(facts + used, size - used, format, arguments);
  va_end(arguments);
}
