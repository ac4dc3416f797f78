// SPDX-License-Identifier: Apache-2.0
// What the init makes in a command's place, when the command's filter asks. The kernel counts an inotify instance to the
// id that makes it, and root of a sandbox has 65536; what waits in netlink's sockets it counts to nobody, whatever the
// limit of memory. The init makes them all, so they are counted together.
#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "protocol.h"

#define NETLINK_MAX 32 // with 8 MiB each where the host allows most (net.core.rmem_max, doubled)

enum kind { INOTIFY, INOTIFY_FLAGS, SOCKET };
static const struct {
  uint32_t architecture;
  int number;
  enum kind kind;
} calls[] = {
#ifdef __x86_64__
    {AUDIT_ARCH_X86_64, 253, INOTIFY},      {AUDIT_ARCH_X86_64, 294, INOTIFY_FLAGS},
    {AUDIT_ARCH_X86_64, 41, SOCKET},        {AUDIT_ARCH_I386, 291, INOTIFY},
    {AUDIT_ARCH_I386, 332, INOTIFY_FLAGS},  {AUDIT_ARCH_I386, 359, SOCKET},
#else
    {AUDIT_ARCH_AARCH64, 26, INOTIFY_FLAGS}, {AUDIT_ARCH_AARCH64, 198, SOCKET},
    {AUDIT_ARCH_ARM, 316, INOTIFY},          {AUDIT_ARCH_ARM, 360, INOTIFY_FLAGS},
    {AUDIT_ARCH_ARM, 281, SOCKET},
#endif
};

static int proc = -1, network = -1;
// An epoll has a file until its last descriptor is closed, by whomever, and lists what it has.
static int living = -1, list = -1;

int lend_prepare(void) {
  char path[64];
  proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
  living = epoll_create1(EPOLL_CLOEXEC);
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", living);
  list = open(path, O_RDONLY | O_CLOEXEC);
  return proc < 0 || network < 0 || living < 0 || list < 0 ? -1 : 0;
}

static int count_living(void) {
  static char text[128 * (NETLINK_MAX + 2)];
  ssize_t length = pread(list, text, sizeof text - 1, 0);
  if (length < 0) return NETLINK_MAX;
  text[length] = 0;
  int count = 0;
  for (const char *at = text; (at = strstr(at, "tfd:")) != NULL; at++) count++;
  return count;
}

struct errand {
  int network, type, protocol, fd, error;
};

static int open_there(void *argument) {
  struct errand *errand = argument;
  if (setns(errand->network, CLONE_NEWNET) == 0)
    errand->fd = socket(AF_NETLINK, errand->type | SOCK_CLOEXEC, errand->protocol);
  errand->error = errno;
  return 0;
}

// By a process that shares the init's memory and descriptors: from the host's network there is no way back.
static int open_elsewhere(int other, int type, int protocol) {
  static char stack[16 << 10] __attribute__((aligned(16)));
  struct errand errand = {other, type, protocol, -1, EAGAIN};
  pid_t pid = clone(open_there, stack + sizeof stack, CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, &errand);
  if (pid < 0) return -1;
  while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR) continue;
  errno = errand.error;
  return errand.fd;
}

// In the network namespace of the thread `pid`, which may have one of its own.
static int netlink_socket(uint32_t pid, int type, int protocol) {
  char path[32];
  struct stat own, its;
  if (count_living() >= NETLINK_MAX) return failing(ENOBUFS);
  snprintf(path, sizeof path, "%u/ns/net", pid);
  int other = openat(proc, path, O_RDONLY | O_CLOEXEC);
  if (other < 0) return -1;
  if (fstat(network, &own) != 0 || fstat(other, &its) != 0) return closing(other, -1);
  int fd = own.st_ino == its.st_ino && own.st_dev == its.st_dev
               ? socket(AF_NETLINK, type | SOCK_CLOEXEC, protocol)
               : open_elsewhere(other, type, protocol);
  closing(other, fd);
  struct epoll_event none = {0};
  return fd < 0 || epoll_ctl(living, EPOLL_CTL_ADD, fd, &none) == 0 ? fd : closing(fd, -1);
}

static int make(enum kind kind, uint32_t pid, const struct seccomp_data *data) {
  switch (kind) {
  case INOTIFY: return inotify_init1(IN_CLOEXEC);
  case INOTIFY_FLAGS: return inotify_init1((int)data->args[0] | IN_CLOEXEC);
  default: return netlink_socket(pid, (int)data->args[1], (int)data->args[2]);
  }
}

static int cloexec_of(enum kind kind, const struct seccomp_data *data) {
  return kind == INOTIFY ? 0 : (int)data->args[kind == SOCKET] & O_CLOEXEC;
}

int lend(int listener, const struct seccomp_notif *question) {
  const struct seccomp_data *data = &question->data;
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    if (calls[i].number != data->nr || calls[i].architecture != data->arch) continue;
    int fd = make(calls[i].kind, question->pid, data);
    if (fd < 0) return -errno;
    struct seccomp_notif_addfd handed = {.id = question->id,
                                         .flags = SECCOMP_ADDFD_FLAG_SEND,
                                         .srcfd = (uint32_t)fd,
                                         .newfd_flags = (uint32_t)cloexec_of(calls[i].kind, data)};
    return closing(fd, ioctl(listener, SECCOMP_IOCTL_NOTIF_ADDFD, &handed)) < 0 ? -errno : 1;
  }
  return 0;
}
