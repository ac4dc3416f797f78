// SPDX-License-Identifier: Apache-2.0
#include "confine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "label.h"
#include "measure.h"
#include "protocol.h"

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

// Landlock

// Rights of newer kernels that some headers lack (linux/landlock.h); an older kernel refuses them.
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ULL << 15)
#endif

struct attributes { // struct landlock_ruleset_attr of ABI 6; shorter ones are a prefix
  uint64_t files, tcp, scoped;
};

#define TCP_ALL 3u      // LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP
#define SCOPE_ABSTRACT 1u // LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET

static const uint64_t devices = LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK;

static int outside = -1;

static int abi(void) {
  return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

static uint64_t known(int version) {
  uint64_t last = version >= 5   ? LANDLOCK_ACCESS_FS_IOCTL_DEV
                  : version >= 3 ? LANDLOCK_ACCESS_FS_TRUNCATE
                  : version >= 2 ? LANDLOCK_ACCESS_FS_REFER
                                 : LANDLOCK_ACCESS_FS_MAKE_SYM;
  return last * 2 - 1;
}

static int allow_below(int rules, const char *path, uint64_t access) {
  struct landlock_path_beneath_attr beneath = {.allowed_access = access};
  beneath.parent_fd = open(path, O_PATH | O_CLOEXEC);
  if (beneath.parent_fd < 0) return -1;
  int result = (int)syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0);
  return closing(beneath.parent_fd, result);
}

int landlock_prepare(void) {
  // A detached mount, below nobody's root: it stands for a descriptor that leaked in from the host.
  outside = (int)syscall(SYS_open_tree, AT_FDCWD, "/dev", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  return outside < 0 ? -1 : 0;
}

int landlock_rules(uint32_t flags) {
  int version = abi();
  if (version < 1) return -1;
  if (((flags & WALL_NO_TCP) && version < 4) ||
      ((flags & WALL_ABSTRACT_SOCKETS) && version < 6))
    return failing(ENOSYS);
  struct attributes attributes = {
      .files = flags & WALL_FILES ? known(version) : 0,
      .tcp = flags & WALL_NO_TCP && !fault("landlock-tcp") ? TCP_ALL : 0,
      .scoped =
          flags & WALL_ABSTRACT_SOCKETS && !fault("landlock-sockets") ? SCOPE_ABSTRACT : 0};
  size_t size = version >= 6   ? sizeof attributes
                : version >= 4 ? offsetof(struct attributes, scoped)
                               : offsetof(struct attributes, tcp);
  int rules = (int)syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
  if (rules < 0 || !(flags & WALL_FILES)) return rules;
  // Everything in the sandbox but devices: none can be made, and none used outside of /dev.
  uint64_t allowed = known(version) & ~devices & ~LANDLOCK_ACCESS_FS_IOCTL_DEV;
  int result = allow_below(rules, "/", allowed);
  if (result == 0 && version >= 5) result = allow_below(rules, "/dev", LANDLOCK_ACCESS_FS_IOCTL_DEV);
  return result == 0 ? rules : closing(rules, -1);
}

static int can_leave(void) {
  int fd = openat(outside, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

static int can_connect(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return 0;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(1)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return closing(fd, connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno != EACCES);
}

// An abstract socket with a name from the kernel. It is made before Landlock confines this process, so that it belongs
// to no confined one.
static int abstract_socket(struct sockaddr_un *address, socklen_t *length) {
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  *length = sizeof address->sun_family;
  if (fd < 0 || bind(fd, (struct sockaddr *)address, *length) != 0) return fd;
  *length = sizeof *address;
  getsockname(fd, (struct sockaddr *)address, length);
  return fd;
}

static int can_reach(const struct sockaddr_un *address, socklen_t length) {
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return 0;
  return closing(fd, connect(fd, (const struct sockaddr *)address, length) == 0);
}

int landlock_enter(int rules, uint32_t flags, uint32_t *walls) {
  struct sockaddr_un address;
  socklen_t length;
  int sockets = flags & WALL_ABSTRACT_SOCKETS, tcp = flags & WALL_NO_TCP;
  int other = sockets ? abstract_socket(&address, &length) : -1;
  // A wall is proven only by an action that was possible before.
  int left = (flags & WALL_FILES) && can_leave(), connected = tcp && can_connect();
  int reached = other >= 0 && can_reach(&address, length);
  if (!fault("landlock") && syscall(SYS_landlock_restrict_self, rules, 0) != 0) return -1;
  close(rules);
  *walls = (left && !can_leave() ? WALL_FILES : 0) |
           (connected && !can_connect() ? WALL_NO_TCP : 0) |
           (reached && !can_reach(&address, length) ? WALL_ABSTRACT_SOCKETS : 0);
  if (other >= 0) close(other);
  return *walls == flags || fault("landlock-unchecked") ? abi() : failing(EPERM);
}
