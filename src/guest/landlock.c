// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "faults.h"

// Of newer kernels than some headers know (linux/landlock.h); an older kernel refuses them.
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

// The rights over files that this kernel knows: all up to the last of its ABI.
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
  int error = errno;
  close(beneath.parent_fd);
  errno = error;
  return result;
}

int landlock_prepare(void) {
  // Detached, so below nobody's root, as whatever leaks in from the host would be.
  outside = (int)syscall(SYS_open_tree, AT_FDCWD, "/dev", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
  return outside < 0 ? -1 : 0;
}

int landlock_rules(uint32_t flags) {
  int version = abi();
  if (version < 1) return -1;
  if (((flags & LANDLOCK_NO_TCP) && version < 4) ||
      ((flags & LANDLOCK_ABSTRACT_SOCKETS) && version < 6)) {
    errno = ENOSYS;
    return -1;
  }
  struct attributes attributes = {
      .files = flags & LANDLOCK_FILES ? known(version) : 0,
      .tcp = flags & LANDLOCK_NO_TCP ? TCP_ALL : 0,
      .scoped = flags & LANDLOCK_ABSTRACT_SOCKETS ? SCOPE_ABSTRACT : 0};
  size_t size = version >= 6   ? sizeof attributes
                : version >= 4 ? offsetof(struct attributes, scoped)
                               : offsetof(struct attributes, tcp);
  int rules = (int)syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
  if (rules < 0 || !(flags & LANDLOCK_FILES)) return rules;
  // All of the box, but no device: neither made anywhere, nor spoken to outside of /dev.
  uint64_t allowed = known(version) & ~devices & ~LANDLOCK_ACCESS_FS_IOCTL_DEV;
  int result = allow_below(rules, "/", allowed);
  if (result == 0 && version >= 5) result = allow_below(rules, "/dev", LANDLOCK_ACCESS_FS_IOCTL_DEV);
  if (result == 0) return rules;
  int error = errno;
  close(rules);
  errno = error;
  return -1;
}

static int can_leave(void) {
  int fd = openat(outside, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) close(fd);
  return fd >= 0;
}

// A port where nobody listens: refused by whoever is asked first.
static int can_connect(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return 0;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(1)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int refused = connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno == EACCES;
  close(fd);
  return !refused;
}

int landlock_enter(int rules, uint32_t flags) {
  int before = can_leave();
  if (!fault("landlock") && syscall(SYS_landlock_restrict_self, rules, 0) != 0) return -1;
  close(rules);
  if ((!(flags & LANDLOCK_FILES) || (before && !can_leave())) &&
      (!(flags & LANDLOCK_NO_TCP) || !can_connect()))
    return abi();
  errno = EPERM;
  return -1;
}
