// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "rights.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "facts.h"
#include "faults.h"
#include "landlock.h"
#include "measure.h"

#define SECCOMP_FILTERS 2 // of the line Seccomp:, proc_pid_status(5)

static char text[16 << 10];

struct rights_files rights_open(void) {
  return (struct rights_files){
      .status = open("/proc/self/status", O_RDONLY | O_CLOEXEC),
      .open = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
}

int rights_limits(const struct wire_rlimit *limits, unsigned count, char *facts, size_t size) {
  int result = 0;
  for (unsigned i = 0; i < count; i++) {
    struct rlimit found;
    if (getrlimit((int)limits[i].resource, &found) != 0) return -1;
    facts_add(facts, size, "rlimit=%u %llu %llu\n", limits[i].resource,
        (unsigned long long)found.rlim_cur, (unsigned long long)found.rlim_max);
    if (found.rlim_cur > limits[i].soft || found.rlim_max > limits[i].hard) result = -1;
  }
  return result;
}

static int is_inherited(int fd) {
  int flags = fcntl(fd, F_GETFD);
  return flags >= 0 && !(flags & FD_CLOEXEC);
}

// Counts descriptors that the command would inherit beside stdin, stdout, stderr.
static int open_descriptors(int open_fd) {
  int count = 0;
  long got, listed = 0;
  while ((got = syscall(SYS_getdents64, open_fd, text, sizeof text)) > 0) {
    listed += got;
    for (long at = 0; at < got;) {
      const struct dirent64 *entry = (const struct dirent64 *)(text + at);
      int fd = atoi(entry->d_name);
      if (fd > 2 && is_inherited(fd)) count++;
      at += entry->d_reclen;
    }
  }
  if (got == 0 && listed > 0) return count;
  // The filter lacks this call: count one by one.
  count = 0;
  for (int fd = 3; fd < 1024; fd++) count += is_inherited(fd);
  return count;
}

// Whether every number of a line is `id`: real, effective, saved and file system's.
static int is_all(const char *values, unsigned long id) {
  for (int i = 0; i < 4; i++) {
    char *end;
    if (strtoul(values, &end, 10) != id || end == values) return 0;
    values = end;
  }
  return 1;
}

// The right that a line of /proc/self/status shows not to be in force: FAIL_…, or 0.
static uint32_t look_at(const char *name, const char *value, const struct confinement *wanted,
                        const struct user *user) {
  if (strcmp(name, "NoNewPrivs") == 0) return value[0] == '1' ? 0 : FAIL_HAS_PRIVILEGES;
  if (strcmp(name, "Seccomp") == 0)
    return wanted->filter.len == 0 || atoi(value) == SECCOMP_FILTERS ? 0 : FAIL_HAS_SECCOMP;
  if (strcmp(name, "Uid") == 0) return is_all(value, user->uid) ? 0 : FAIL_HAS_USER;
  if (strcmp(name, "Gid") == 0) return is_all(value, user->gid) ? 0 : FAIL_HAS_USER;
  if (strncmp(name, "Cap", 3) == 0)
    return strtoull(value, NULL, 16) & ~wanted->capabilities ? FAIL_HAS_CAPABILITIES : 0;
  return 0;
}

int rights_is_probe(int number, uint64_t first) {
  return number == SYS_fchmod && (int)first == RIGHTS_NO_FILE;
}

// Whether a set-id bit is refused. Tried only where it must be: another filter may kill for it.
static int refuses_set_id(void) {
  return syscall(SYS_fchmod, RIGHTS_NO_FILE, S_ISUID | 0755) != 0 && errno == EPERM &&
         syscall(SYS_fchmod, RIGHTS_NO_FILE, S_ISGID | 0755) != 0 && errno == EPERM;
}

// What this sandbox requires and the command lacks: FAIL_…, or 0.
static uint32_t measure_necessary(const struct confinement *wanted,
                                  const struct landlock *landlock, char *facts, size_t size) {
  int network = measure_host_network(), files = measure_host_files();
  int refused = files && refuses_set_id();
  facts_add(facts, size, "network=%s\nhost_files=%d\nset_id=%s\n", network ? "host" : "own", files,
            refused ? "refused" : "unknown");
  if (files && !refused) return FAIL_HAS_SET_ID;
  if (network && !(landlock->walls & WALL_ABSTRACT_SOCKETS) &&
      !(wanted->landlock & WALL_OPEN_SOCKETS))
    return FAIL_HAS_SOCKETS;
  return 0;
}

uint32_t rights_measure(struct rights_files files, const struct confinement *wanted,
                        const struct user *user, const struct landlock *landlock, char *facts,
                        size_t size) {
  static const char *const names[] = {"Uid",    "Gid",    "Groups", "CapInh",     "CapPrm",
                                      "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
                                      "Seccomp_filters"};
  enum { LINES = sizeof names / sizeof *names };
  int descriptors = open_descriptors(files.open), seen = 0;
  facts_add(facts, size, "landlock=%d\nwalls=%u\ndescriptors=%d\n", landlock->abi, landlock->walls,
      descriptors);
  uint32_t missing = measure_necessary(wanted, landlock, facts, size);
  if (descriptors != 0) missing = FAIL_HAS_DESCRIPTORS;
  ssize_t length = lseek(files.status, 0, SEEK_SET) == 0
                       ? read(files.status, text, sizeof text - 1)
                       : -1;
  text[length < 0 ? 0 : length] = 0;
  char *rest = text, *line;
  while ((line = strsep(&rest, "\n")) != NULL) {
    char *value = strchr(line, ':');
    if (value == NULL) continue;
    *value++ = 0;
    value += strspn(value, "\t ");
    for (size_t i = 0; i < LINES; i++) {
      if (strcmp(line, names[i]) != 0) continue;
      seen++;
      facts_add(facts, size, "%s=%s\n", line, value);
      if (missing == 0) missing = look_at(line, value, wanted, user);
    }
  }
  if (seen < LINES && missing == 0) missing = FAIL_HAS_NO_STATUS;
  return fault("rights-unchecked") ? 0 : missing;
}
