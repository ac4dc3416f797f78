// SPDX-License-Identifier: Apache-2.0
#include "confine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "label.h"
#include "measure.h"

// In force for container root, ambient for other users, who have none unless the request says so.
static int drop_privileges(uint64_t keep, const struct user *user) {
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
    if (!(keep >> cap & 1) && !fault("capabilities") && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0)
      return -1;
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return -1;
  if (keep != 0 && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) return -1;
  if (setgroups((size_t)user->ngroups, user->groups) != 0 ||
      setresgid(user->gid, user->gid, user->gid) != 0 ||
      (!fault("user") && setresuid(user->uid, user->uid, user->uid) != 0))
    return -1;
  uint64_t inherit = user->uid == 0 ? 0 : keep;
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct data[2] = {
      {(uint32_t)keep, (uint32_t)keep, (uint32_t)inherit},
      {(uint32_t)(keep >> 32), (uint32_t)(keep >> 32), (uint32_t)(inherit >> 32)}};
  if (syscall(SYS_capset, &header, data) != 0) return -1;
  for (int cap = 0; cap < 64; cap++)
    if (inherit >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) != 0) return -1;
  return 0;
}

uint32_t confine(const struct confinement *wanted, const struct user *user, const char *cwd,
                 struct landlock *found) {
  *found = (struct landlock){0};
  int rules = -1;
  uint32_t walls = wanted->landlock & ~(uint32_t)WALL_OPEN_SOCKETS;
  if (walls != 0 && (rules = landlock_rules(walls)) < 0) return FAIL_LANDLOCK;
  if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) != 0 ||
      (fault("descriptors") && dup(0) < 0))
    return FAIL_DESCRIPTORS;
  if (drop_privileges(wanted->capabilities, user) != 0) return FAIL_PRIVILEGES;
  if (chdir(cwd) != 0) return FAIL_CHDIR;
  if (label_enter() != 0) return FAIL_COMMAND_LABEL;
  if (!fault("no_new_privs") && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    return FAIL_NO_NEW_PRIVILEGES;
  if (walls != 0 && (found->abi = landlock_enter(rules, walls, &found->walls)) < 0)
    return FAIL_LANDLOCK;
  return 0;
}

#define NO_FILE (-1) // a call on it has no effect, whatever a filter says
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
  count = 0;
  for (int fd = 3; fd < 1024; fd++) count += is_inherited(fd);
  return count;
}

static int is_all(const char *values, unsigned long id) {
  for (int i = 0; i < 4; i++) {
    char *end;
    if (strtoul(values, &end, 10) != id || end == values) return 0;
    values = end;
  }
  return 1;
}

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
  return number == SYS_fchmod && (int)first == NO_FILE;
}

// Whether a set-id bit is refused. Tried only where it must be: another filter may kill for it.
static int refuses_set_id(void) {
  return syscall(SYS_fchmod, NO_FILE, S_ISUID | 0755) != 0 && errno == EPERM &&
         syscall(SYS_fchmod, NO_FILE, S_ISGID | 0755) != 0 && errno == EPERM;
}

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
