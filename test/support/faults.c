// SPDX-License-Identifier: Apache-2.0
// Linked with the guest init when it is compiled with KILN_FAULTS: see src/guest/protocol.h.
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "protocol.h"

static char names[256];

// While the skeleton is still the root.
__attribute__((constructor)) static void load(void) {
  int fd = open("/faults", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = read(fd, names, sizeof names - 1);
  if (n > 0) names[n] = 0;
  close(fd);
}

// One name a line.
int fault(const char *layer) {
  size_t length = strlen(layer);
  for (const char *at = names; (at = strstr(at, layer)) != NULL; at += length)
    if ((at == names || at[-1] == '\n') && at[length] == '\n') return 1;
  return 0;
}
