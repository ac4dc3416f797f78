// SPDX-License-Identifier: Apache-2.0
// The control group of the sandbox, the init's included: cgroup v2, the kernel's admin-guide.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stage0.h"

#define PERIOD 100000u

static char text[4096];

static int load(const char *name) {
  char path[128];
  snprintf(path, sizeof path, SANDBOX_GROUP "/%s", name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  text[n < 0 ? 0 : n] = 0;
  return n < 0 ? -1 : 0;
}

// `max`, and a file that this kernel lacks, is UINT64_MAX.
static uint64_t number(const char *name) {
  if (load(name) != 0 || text[0] < '0' || text[0] > '9') return UINT64_MAX;
  return strtoull(text, NULL, 10);
}

// The value in a line `WORD VALUE`.
static uint64_t value(const char *name, const char *word) {
  if (load(name) != 0) return UINT64_MAX;
  size_t length = strlen(word);
  for (char *line = text; line != NULL && *line != 0; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, word, length) == 0 && line[length] == ' ')
      return strtoull(line + length, NULL, 10);
  }
  return UINT64_MAX;
}

static int store(const char *name, const char *content) {
  char path[128];
  snprintf(path, sizeof path, SANDBOX_GROUP "/%s", name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = write(fd, content, strlen(content));
  int error = errno;
  close(fd);
  errno = error;
  return n < 0 ? -1 : 0;
}

static int store_number(const char *name, uint64_t wanted) {
  char content[32] = "max";
  if (wanted != UINT64_MAX) snprintf(content, sizeof content, "%" PRIu64, wanted);
  return store(name, content);
}

const char *group_limit(const struct wire_machine_limits *wanted) {
  char quota[64];
  if (store_number("memory.max", wanted->memory) != 0) return "memory";
  // A guest has no swap, unless somebody made some.
  store("memory.swap.max", "0");
  if (store_number("pids.max", wanted->pids) != 0) return "pids";
  if (wanted->quota == UINT64_MAX) snprintf(quota, sizeof quota, "max %u", PERIOD);
  else snprintf(quota, sizeof quota, "%" PRIu64 " %u", wanted->quota, PERIOD);
  return store("cpu.max", quota) != 0 ? "cpu" : NULL;
}

struct wire_machine_limits group_limits(void) {
  return (struct wire_machine_limits){number("memory.max"), number("pids.max"), number("cpu.max")};
}

struct wire_machine_usage group_usage(void) {
  return (struct wire_machine_usage){.cpu_microseconds = value("cpu.stat", "usage_usec"),
                                     .cpu_user_microseconds = value("cpu.stat", "user_usec"),
                                     .cpu_system_microseconds = value("cpu.stat", "system_usec"),
                                     .memory_bytes = number("memory.current"),
                                     .peak_memory_bytes = number("memory.peak"),
                                     .shared_bytes = value("memory.stat", "shmem"),
                                     .oom_kills = value("memory.events", "oom_kill"),
                                     .peak_pids = number("pids.peak"),
                                     .pids_refused = value("pids.events", "max")};
}

int group_make(pid_t pid) {
  static const char *const controllers[] = {"+cpu", "+memory", "+pids"};
  char id[16];
  for (size_t i = 0; i < sizeof controllers / sizeof *controllers; i++) {
    int fd = open(CGROUPS "/cgroup.subtree_control", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, controllers[i], strlen(controllers[i])) < 0) say(controllers[i]);
    if (fd >= 0) close(fd);
  }
  snprintf(id, sizeof id, "%d", pid);
  return mkdir(SANDBOX_GROUP, 0755) != 0 ? -1 : store("cgroup.procs", id);
}
