// SPDX-License-Identifier: Apache-2.0
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "protocol.h"

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
